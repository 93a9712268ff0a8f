"""The spans of LangChain's runs, as a real receiver gets them: one trace, right parents, each ended once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from llmkit_langchain import AsyncLLMKitCallbackHandler, ChatLLMKit, LLMKitCallbackHandler, llmkit_context
from opentelemetry.sdk.trace import TracerProvider

from llmkit_plugins import LLMKit
from llmkit_plugins.plugins.observability import ObservabilityPlugin
from llmkit_plugins.testing import FakeProvider
from llmkit_plugins.testing.fake_provider import Fault

QUESTION = {"messages": [("user", "What is the weather?")]}


@pytest.fixture
def providers() -> Iterator[tuple[FakeProvider, FakeProvider]]:
    """The one that is asked first, and the one for failovers."""
    with FakeProvider(reply="one two three") as first, FakeProvider(reply="four five") as second:
        yield first, second


@pytest.fixture
def settings() -> dict[str, Any]:
    """More of the plugin's settings."""
    return {}


@pytest.fixture
def kit(endpoint, protocol, settings) -> LLMKit:
    """Its spans go to the receiver; closing it delivers them."""
    return LLMKit([ObservabilityPlugin(own_registry=True, otlp_endpoint=endpoint, otlp_protocol=protocol, **settings)])


@pytest.fixture
async def model(kit, providers):
    """A model over the two providers."""
    clients = [(openai.DefaultHttpxClient(verify=False), openai.DefaultAsyncHttpxClient(verify=False)) for _ in "ab"]
    models = {
        name: ChatOpenAI(
            model=f"model-{name}",
            base_url=provider.url,
            api_key="k",
            max_retries=0,
            stream_usage=True,
            http_client=sync,
            http_async_client=asynchronous,
        )
        for name, provider, (sync, asynchronous) in zip("ab", providers, clients, strict=True)
    }
    yield ChatLLMKit(models=models, kit=kit)
    for sync, asynchronous in clients:
        sync.close()
        await asynchronous.aclose()


@pytest.fixture
def root():
    """The application's own span."""
    provider = TracerProvider(shutdown_on_exit=False)
    with provider.get_tracer("app").start_as_current_span("app") as span:
        yield span.get_span_context()


@pytest.fixture
def agent(model) -> Any:
    """Calls its tool once, then answers."""

    def weather(city: str) -> str:
        """The weather in a city."""
        return f"sunny in {city}"

    return create_agent(model, [weather])


def told(kit, inbox, root) -> list[tuple[str, str, str]]:
    """Each span of the application's trace that arrived: its name, its parent's and how it ended. None came twice."""
    kit.close()
    spans = inbox.of(f"{root.trace_id:032x}")
    assert len(spans) == len(inbox.spans) == len({span.span_id for span in spans})
    names = {span.span_id: span.name for span in spans} | {f"{root.span_id:016x}": "app"}
    return sorted((span.name, names[span.parent_id], span.attributes["llmkit.outcome"]) for span in spans)


async def run(asked: Any, mode: str, question: Any = QUESTION) -> None:
    how = {"stream_mode": "messages"} if question is QUESTION else {}
    if mode == "invoke":
        asked.invoke(question)
    elif mode == "ainvoke":
        await asked.ainvoke(question)
    elif mode == "stream":
        list(asked.stream(question, **how))
    else:
        [_ async for _ in asked.astream(question, **how)]


MODES = ("invoke", "ainvoke", "stream", "astream")


@pytest.mark.parametrize("mode", MODES)
async def test_an_agent_is_one_trace(mode, agent, kit, inbox, root):
    """Two calls of the model, each a request below the application's span and an attempt below that."""
    await run(agent, mode)
    assert told(kit, inbox, root) == [
        *[("chat model-a", "llmkit chat", "ok")] * 2,
        *[("llmkit chat", "app", "ok")] * 2,
    ]


@pytest.mark.parametrize("mode", MODES)
async def test_a_failover_within_an_agent(mode, agent, kit, inbox, root, providers):
    """The attempt that failed and the one that answered are children of one request."""
    providers[0].fail_with(Fault("overloaded", on=[2]))
    providers[0].reset()
    await run(agent, mode)
    assert told(kit, inbox, root) == [
        ("chat model-a", "llmkit chat", "error"),
        ("chat model-a", "llmkit chat", "ok"),
        ("chat model-b", "llmkit chat", "ok"),
        *[("llmkit chat", "app", "ok")] * 2,
    ]
    by_id = {span.span_id: span for span in inbox.spans}
    (failed,) = [span for span in inbox.spans if span.failed]
    assert failed.attributes["error.type"] == "overloaded"
    (answered,) = [span for span in inbox.spans if span.name == "chat model-b"]
    assert by_id[failed.parent_id] is by_id[answered.parent_id]


@pytest.mark.parametrize("mode", MODES)
async def test_a_failed_agent(mode, agent, kit, inbox, root, providers):
    """Everything that failed ended, as failed."""
    for provider in providers:
        provider.fail_with(Fault("server_error"))
    with pytest.raises(openai.InternalServerError):
        await run(agent, mode)
    assert told(kit, inbox, root) == [
        ("chat model-a", "llmkit chat", "error"),
        ("chat model-b", "llmkit chat", "error"),
        ("llmkit chat", "app", "error"),
    ]


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_a_cancelled_agent(mode, agent, kit, inbox, root, providers):
    """A task that is cancelled while the provider works ends its spans, as cancelled and not as failed."""
    providers[0].slow_down(first_token_seconds=60.0)
    task = asyncio.create_task(run(agent, mode))
    await asyncio.to_thread(providers[0].wait_until, lambda stats: stats.in_flight == 1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert told(kit, inbox, root) == [
        ("chat model-a", "llmkit chat", "cancelled"),
        ("llmkit chat", "app", "cancelled"),
    ]
    assert not any(span.failed for span in inbox.spans)


@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_an_abandoned_stream(mode, model, kit, inbox, root):
    """Left after the first chunk."""
    if mode == "stream":
        stream = model.stream("hi")
        next(stream)
        stream.close()
    else:
        stream = model.astream("hi")
        await anext(stream)
        await stream.aclose()
    assert told(kit, inbox, root) == [
        ("chat model-a", "llmkit chat", "cancelled"),
        ("llmkit chat", "app", "cancelled"),
    ]


@pytest.mark.parametrize("mode", MODES)
async def test_a_handler_joins_the_trace(mode, kit, inbox, root, providers, model):
    """Where LangChain sends by itself, a callback handler's spans are in the application's trace as well."""
    plain = model.models["b"]
    handled = plain.with_config(callbacks=[LLMKitCallbackHandler(kit)])
    await run(handled, mode, "hi")
    assert told(kit, inbox, root) == [("chat model-b", "llmkit chat", "ok"), ("llmkit chat", "app", "ok")]


@pytest.mark.parametrize("settings", [{"propagate_trace": True}, {}], ids=["propagated", "not"])
@pytest.mark.parametrize("protocol", ["http"], indirect=True)
@pytest.mark.parametrize("mode", MODES)
async def test_the_provider_is_told_of_the_trace(mode, settings, model, kit, inbox, root, providers):
    """Each attempt, a failed one too, has its own span on the wire, where that is asked for, beside other headers."""
    providers[0].fail_with(Fault("overloaded"))
    await run(model.bind(extra_headers={"x-mine": "1"}), mode, "hi")
    told(kit, inbox, root)
    spans = [span for name in "ab" for span in inbox.spans if span.name == f"chat model-{name}"]
    assert len(spans) == 2
    for provider, span in zip(providers, spans, strict=True):
        (seen,) = provider.requests
        told_of = f"00-{span.trace_id}-{span.span_id}-01" if settings else None
        assert seen.headers.get("traceparent") == told_of
        assert seen.headers["x-mine"] == "1"


@pytest.mark.parametrize("settings", [{"content": True}], ids=["content"])
@pytest.mark.parametrize("protocol", ["http"], indirect=True)
@pytest.mark.parametrize("handled", [False, True], ids=["model", "handler"])
@pytest.mark.parametrize("mode", MODES)
async def test_what_was_said(mode, handled, settings, model, kit, inbox, root):
    """Prompt and answer, streamed or not, through the kit's model or beside LangChain's own."""
    asked = model.models["a"].with_config(callbacks=[LLMKitCallbackHandler(kit)]) if handled else model
    await run(asked, mode, "hi there")
    told(kit, inbox, root)
    (request,) = [span for span in inbox.spans if span.name == "llmkit chat"]
    (prompt,) = json.loads(request.attributes["gen_ai.input.messages"])
    assert prompt == {"role": "user", "parts": [{"type": "text", "content": "hi there"}]}
    (answer,) = json.loads(request.attributes["gen_ai.output.messages"])
    assert answer["parts"] == [{"type": "text", "content": "one two three"}]
    assert answer["finish_reason"] == "stop"


def told_without_context(kit, inbox) -> list[tuple[str, str, str]]:
    """The same where the application has no span: everything is in one trace, below the run's own span."""
    kit.close()
    names = {span.span_id: span.name for span in inbox.spans} | {"": "nobody"}
    assert len({span.trace_id for span in inbox.spans}) == 1
    assert len(inbox.spans) == len({span.span_id for span in inbox.spans})
    return sorted((span.name, names[span.parent_id], span.attributes["llmkit.outcome"]) for span in inbox.spans)


@pytest.mark.parametrize("protocol", ["http"], indirect=True)
@pytest.mark.parametrize("mode", MODES)
async def test_an_agents_run_is_a_trace_of_its_own(mode, agent, kit, inbox, providers):
    """Without any OpenTelemetry in the application: one trace, however many calls the run makes and who fails."""
    providers[0].fail_with(Fault("overloaded", on=[2]))
    providers[0].reset()
    await run(agent.with_config(callbacks=[LLMKitCallbackHandler(kit)]), mode)
    assert told_without_context(kit, inbox) == [
        ("chat model-a", "llmkit chat", "error"),
        ("chat model-a", "llmkit chat", "ok"),
        ("chat model-b", "llmkit chat", "ok"),
        ("invoke_workflow LangGraph", "nobody", "ok"),
        *[("llmkit chat", "invoke_workflow LangGraph", "ok")] * 2,
    ]


@pytest.mark.parametrize("protocol", ["http"], indirect=True)
@pytest.mark.parametrize("handler", [LLMKitCallbackHandler, AsyncLLMKitCallbackHandler])
@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_a_cancelled_run_of_its_own(mode, handler, agent, kit, inbox, providers):
    """Its span ends as cancelled, with those below it, and nothing is remembered."""
    providers[0].slow_down(first_token_seconds=60.0)
    task = asyncio.create_task(run(agent.with_config(callbacks=[handler(kit)]), mode))
    await asyncio.to_thread(providers[0].wait_until, lambda stats: stats.in_flight == 1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert told_without_context(kit, inbox) == [
        ("chat model-a", "llmkit chat", "cancelled"),
        ("invoke_workflow LangGraph", "nobody", "cancelled"),
        ("llmkit chat", "invoke_workflow LangGraph", "cancelled"),
    ]
    assert not kit.plugins["observability"].runs


@pytest.mark.parametrize("protocol", ["http"], indirect=True)
@pytest.mark.parametrize("mode", MODES)
async def test_a_failed_run_of_its_own(mode, model, kit, inbox, providers):
    """Also around models that LangChain asks by itself, under ``llmkit_context``."""
    providers[1].fail_with(Fault("server_error"))
    chain = RunnableLambda(lambda text: text, name="first") | model.models["b"]
    with pytest.raises(openai.InternalServerError), llmkit_context(kit):
        await run(chain, mode, "hi")
    assert told_without_context(kit, inbox) == [
        ("chat model-b", "llmkit chat", "error"),
        ("invoke_workflow RunnableSequence", "nobody", "error"),
        ("llmkit chat", "invoke_workflow RunnableSequence", "error"),
    ]
    assert not kit.plugins["observability"].runs
