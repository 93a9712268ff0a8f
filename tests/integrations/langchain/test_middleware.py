"""``LLMKitMiddleware`` in agents, beside LangChain's own middlewares, and the same agents over ``ChatLLMKit``."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

import llmkit_langchain
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    ToolRetryMiddleware,
    wrap_model_call,
)
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from llmkit_langchain import ChatLLMKit, LLMKitCallbackHandler, LLMKitMiddleware, llmkit_context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from llmkit_plugins import (
    CircuitBreakerPlugin,
    ConfigError,
    Limit,
    LLMKit,
    ObservabilityPlugin,
    RateLimited,
    RateLimiterPlugin,
    Share,
)
from llmkit_plugins.testing.fake_provider import Fault

QUESTION = {"messages": [("user", "What is the weather, and what time is it?")]}
MODES = ("invoke", "ainvoke", "stream", "astream")
WAYS = ("middleware", "model")


class Answer(BaseModel):
    """What the agent found."""

    city: str


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def clock(zone: str) -> str:
    """The time in a zone."""
    return f"noon in {zone}"


@pytest.fixture
def models(first, second, chat_openai):
    return {"first": chat_openai(first, "m-1"), "second": chat_openai(second, "m-2")}


@pytest.fixture
def agent_of(kit, models):
    """Makes an agent with two tools over both models, through the middleware or through ``ChatLLMKit``."""

    def make(way, *around, tools=(weather, clock), kit=kit, **given):
        if way == "model":
            return create_agent(ChatLLMKit(models, kit), tools, middleware=around, **given)
        middleware = LLMKitMiddleware(kit, models)
        return create_agent(
            FakeListChatModel(responses=["not asked"]), tools, middleware=[*around, middleware], **given
        )

    return make


async def run(mode, agent, config=None, said=QUESTION, **given) -> dict[str, Any]:
    """The last state of *agent*."""
    if mode == "invoke":
        return await asyncio.to_thread(agent.invoke, said, config, **given)
    if mode == "ainvoke":
        return await agent.ainvoke(said, config, **given)
    if mode == "stream":
        states = await asyncio.to_thread(lambda: list(agent.stream(said, config, stream_mode="values", **given)))
    else:
        states = [state async for state in agent.astream(said, config, stream_mode="values", **given)]
    return states[-1]


def types(state) -> list[str]:
    return [message.type for message in state["messages"]]


STEPS = ["human", "ai", "tool", "ai", "tool", "ai"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
async def test_two_tools(mode, way, agent_of, recorder, first, second):
    """An agent calls both of its tools and answers: three calls of the first model, each with its user, once."""
    state = await run(mode, agent_of(way), {"metadata": {"user": "u1"}})
    assert types(state) == STEPS
    assert [message.text for message in state["messages"] if message.type != "ai"][1:] == [
        "sunny in text",
        "noon in text",
    ]
    assert state["messages"][-1].text == "one two three"
    assert state["messages"][-1].response_metadata["llmkit"]["target"] == "first"
    assert recorder.counts["request ok"] == recorder.counts["attempt ok"] == recorder.counts["attempt"] == 3
    assert {(call.user, tuple(_names(call.params["tools"]))) for call in recorder.calls} == {
        ("u1", ("weather", "clock"))
    }
    assert (first.stats.requests, second.stats.requests) == (3, 0)


def _names(tools) -> list[str]:
    return [tool["function"]["name"] for tool in tools]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
async def test_a_provider_dies_between_two_steps(mode, way, agent_of, models, plugin, first, second):
    """The first provider calls a tool and dies: the second one goes on where it stopped, in one tree of spans, and the
    circuit of the first keeps the third step away from it."""
    spans = InMemorySpanExporter()
    tracing = TracerProvider(shutdown_on_exit=False)
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    breaker = CircuitBreakerPlugin(consecutive_failures=1)
    kit = LLMKit([ObservabilityPlugin(own_registry=True, tracer_provider=tracing), breaker], on_plugin_error="raise")
    first.fail_with(Fault("overloaded", on=[2, 3]))
    first.reset()
    with tracing.get_tracer("app").start_as_current_span("app") as app:
        state = await run(mode, agent_of(way, kit=kit))
    kit.close()
    assert types(state) == STEPS
    assert state["messages"][-1].text == "four five"
    assert (first.stats.requests, second.stats.requests) == (2, 2)
    told = spans.get_finished_spans()
    assert {span.context.trace_id for span in told} == {app.get_span_context().trace_id}
    names = {span.context.span_id: span.name for span in told}
    assert sorted((span.name, names[span.parent.span_id]) for span in told if span.parent) == [
        ("chat m-1", "llmkit chat"),
        ("chat m-1", "llmkit chat"),
        ("chat m-2", "llmkit chat"),
        ("chat m-2", "llmkit chat"),
        *[("llmkit chat", "app")] * 3,
    ]
    assert [span.name for span in told if not span.parent] == ["app"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_messages_are_streamed_once(mode, way, agent_of):
    """``stream_mode="messages"`` has every text once, in the chunks of the provider."""
    agent = agent_of(way)
    if mode == "stream":
        parts = await asyncio.to_thread(lambda: list(agent.stream(QUESTION, stream_mode="messages")))
    else:
        parts = [part async for part in agent.astream(QUESTION, stream_mode="messages")]
    said = [message.text for message, _ in parts if isinstance(message, AIMessageChunk)]
    assert "".join(said) == "one two three"
    assert len([text for text in said if text]) == 3


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_without_models_the_agents_own_is_sent_through_the_kit(mode, kit, models, recorder, plugin):
    """The agent's model is the one target, the same at each step, with its own tools."""
    agent = create_agent(models["first"], [weather, clock], middleware=[LLMKitMiddleware(kit)])
    assert types(await run(mode, agent)) == STEPS
    assert [attempt.target.name for attempt in recorder.attempts] == ["openai/m-1"] * 3
    assert len({call.params["credential"] for call in recorder.calls}) == 1
    assert recorder.counts["request ok"] == 3


async def test_a_model_of_the_kit_is_left_alone(kit, models, recorder):
    """Around a ``ChatLLMKit`` of its own kit neither the middleware nor a handler counts anything a second time."""
    agent = create_agent(ChatLLMKit(models, kit), [weather, clock], middleware=[LLMKitMiddleware(kit)])
    await agent.ainvoke(QUESTION, {"callbacks": [LLMKitCallbackHandler(kit)]})
    assert recorder.counts["request"] == recorder.counts["attempt"] == 3
    assert {attempt.target.name for attempt in recorder.attempts} == {"first"}


async def test_only_so_many_models_are_remembered(kit, first, chat_openai, recorder):
    """A middleware that makes a model for each call does not fill the memory; each call is made with its own."""
    middleware = LLMKitMiddleware(kit)

    @wrap_model_call
    def anew(request, handler):
        return handler(request.override(model=FakeListChatModel(responses=["x"])))

    agent = create_agent(FakeListChatModel(responses=["x"]), [], middleware=[anew, middleware])
    for _ in range(70):
        agent.invoke(QUESTION)
    assert recorder.counts["request ok"] == 70
    assert len(middleware._known) <= 32


# -- who is calling ---------------------------------------------------------------------------------------------------


@dataclass
class Context:
    user_id: int
    tenant: str


@pytest.mark.parametrize("context", [Context(7, "t1"), {"user": "7", "tenant": "t1"}])
@pytest.mark.parametrize("mode", ["invoke", "astream"])
async def test_user_of_the_agents_context(mode, context, agent_of, recorder):
    """The agent's context tells the user and the tenant, an object as well as a mapping."""
    await run(mode, agent_of("middleware", context_schema=type(context)), context=context)
    assert {(call.user, call.tenant) for call in recorder.calls} == {("7", "t1")}


def test_metadata_goes_before_the_context(agent_of, recorder):
    """What the run's metadata says of the user counts; what neither says is that of ``llmkit_context``."""
    agent = agent_of("middleware", context_schema=Context)
    with llmkit_context(LLMKit(), user="u0", tenant="t0"):
        agent.invoke(QUESTION, {"metadata": {"user": "u1"}}, context=Context(7, "t1"))
        agent.invoke(QUESTION)
    assert [(call.user, call.tenant) for call in recorder.calls] == [("u1", "t1")] * 3 + [("u0", "t0")] * 3


# -- with LangChain's own middlewares ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_limits_refuse_a_step(mode, agent_of, models):
    """A limit counts the model calls of an agent; the one it refuses ends the run."""
    kit = LLMKit([RateLimiterPlugin(limits=[Limit(requests="2/min", per="user")])])
    with pytest.raises(RateLimited) as caught:
        await run(mode, agent_of("middleware", kit=kit), {"metadata": {"user": "u1"}})
    assert caught.value.is_retryable


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_retry_around(mode, agent_of, recorder, first, second):
    """LangChain's retry, before it in the list, makes a call anew where all targets failed."""
    for provider in (first, second):
        provider.fail_with(Fault("overloaded", on=[1]))
        provider.reset()
    retry = ModelRetryMiddleware(max_retries=1, initial_delay=0, jitter=False, on_failure="error")
    assert types(await run(mode, agent_of("middleware", retry))) == STEPS
    assert (recorder.counts["request error"], recorder.counts["request ok"]) == (1, 3)
    assert (recorder.counts["attempt error"], recorder.counts["attempt ok"]) == (2, 3)


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_fallback_around(mode, kit, models, recorder, first, plugin):
    """LangChain's fallback, before it in the list, chooses the models: each goes through the kit, as its own target."""
    first.fail_with(Fault("bad_request", on=[2]))
    first.reset()
    around = [ModelFallbackMiddleware(models["second"]), LLMKitMiddleware(kit)]
    state = await run(mode, create_agent(models["first"], [weather, clock], middleware=around))
    assert types(state) == STEPS
    assert [(attempt.target.model, attempt.outcome) for attempt in recorder.attempts] == [
        ("m-1", "ok"),
        ("m-1", "error"),
        ("m-2", "ok"),
        ("m-1", "ok"),
    ]


@pytest.mark.parametrize("mode", MODES)
async def test_in_the_middle_of_others(mode, kit, models, recorder):
    """Middlewares before and after it see each model call once, the ones after it the model it puts in."""
    seen = []

    class Watch(AgentMiddleware):
        def __init__(self, name):
            self._name = name

        @property
        def name(self):
            return self._name

        def before_model(self, state, runtime):
            seen.append((self._name, "before"))

        def wrap_model_call(self, request, handler):
            seen.append((self._name, type(request.model).__name__))
            return handler(request)

        async def awrap_model_call(self, request, handler):
            seen.append((self._name, type(request.model).__name__))
            return await handler(request)

    around = [
        Watch("outer"),
        ModelCallLimitMiddleware(run_limit=5),
        LLMKitMiddleware(kit, models),
        Watch("inner"),
        ToolRetryMiddleware(),
    ]
    state = await run(mode, create_agent(models["first"], [weather, clock], middleware=around))
    assert types(state) == STEPS
    one = [("outer", "before"), ("inner", "before"), ("outer", "ChatOpenAI"), ("inner", "ChatLLMKit")]
    assert seen == one * 3
    assert recorder.counts["request ok"] == recorder.counts["request"] == 3


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_an_interrupt_passes_through(mode, kit, models, recorder):
    """A graph that is interrupted inside a model call, and goes on later, is no failure of the call."""

    @wrap_model_call
    async def aapprove(request, handler):
        interrupt("go on?")
        return await handler(request)

    @wrap_model_call
    def approve(request, handler):
        interrupt("go on?")
        return handler(request)

    around = [LLMKitMiddleware(kit, models), approve if mode == "invoke" else aapprove]
    agent = create_agent(models["first"], [weather], middleware=around, checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    state = await run(mode, agent, config)
    assert state["__interrupt__"][0].value == "go on?"
    assert recorder.counts["request"] == 0
    state = await run(mode, agent, config, said=Command(resume=True))
    assert types(state)[:3] == ["human", "ai", "tool"]
    assert recorder.counts["request ok"] == recorder.counts["request"] == 1


def test_two_in_one_agent_are_refused_by_langchain(kit, models):
    """Its name is that of its class, so that LangChain finds a second one."""
    with pytest.raises(AssertionError, match="duplicate"):
        create_agent(models["first"], [], middleware=[LLMKitMiddleware(kit), LLMKitMiddleware(kit)])


# -- structured output ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "asked", "form"),
    [
        (("m-1", "m-2"), Answer, "tools"),
        (("gpt-4o", "gpt-4o-mini"), Answer, "response_format"),
        (("gpt-4o", "gpt-4o-mini"), ToolStrategy(Answer), "tools"),
        (("m-1", "m-2"), ProviderStrategy(Answer), "response_format"),
    ],
)
@pytest.mark.parametrize("mode", ["invoke", "astream"])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")  # ChatOpenAI's own
async def test_structured_output(fails, mode, names, asked, form, kit, first, second, chat_openai, recorder):
    """It is in the form that the middleware's models have, not the agent's own, also after a failover."""
    providers = (first, second)
    models = {name: chat_openai(provider, name) for name, provider in zip(names, providers, strict=True)}
    first.fail_with(*[Fault("overloaded")] if fails else [])
    own = FakeListChatModel(responses=["not asked"])
    agent = create_agent(own, [], response_format=asked, middleware=[LLMKitMiddleware(kit, models)])
    state = await run(mode, agent)
    assert isinstance(state["structured_response"], Answer)
    assert form in providers[fails].requests[-1].body
    assert recorder.counts["request ok"] == recorder.counts["request"] == 1


# -- the rest ---------------------------------------------------------------------------------------------------------


async def test_identical_steps_of_agents_are_shared(kit, models, plugin, held, together, first, recorder):
    """Agents that ask the same at the same time are served by one request, each with its own message."""
    kit.register(plugin(pre_request=lambda call: Share((str(call.messages[-1].content), call.params["credential"]))))
    agent = create_agent(models["first"], [], middleware=[LLMKitMiddleware(kit)])
    states = await together([agent.ainvoke(QUESTION) for _ in range(5)])
    assert {state["messages"][-1].text for state in states} == {"one two three"}
    assert len({id(state["messages"][-1]) for state in states}) == 5
    assert first.stats.requests == 1
    assert recorder.counts["request shared"] == 4


def test_callbacks_of_the_agents_own_model(kit, recorder, first, chat_openai):
    """What is set on the agent's model, callbacks and metadata, is heard as it is without the middleware."""

    class Heard(BaseCallbackHandler):
        texts: ClassVar[list[str]] = []

        def on_llm_end(self, response, **_):
            self.texts.append(response.generations[0][0].text)

    model = chat_openai(first, "m", callbacks=[Heard()], metadata={"tenant": "t1"})
    create_agent(model, [], middleware=[LLMKitMiddleware(kit)]).invoke(QUESTION)
    assert Heard.texts == ["one two three"]
    assert [call.tenant for call in recorder.calls] == ["t1"]


def test_what_is_no_chat_model(kit):
    """Neither what the middleware is given nor what it finds in an agent; the error says what would be right."""
    with pytest.raises(ConfigError, match=r"models\.a: int is not a chat model"):
        LLMKitMiddleware(kit, {"a": 1})
    odd: Any = RunnableLambda(lambda _: AIMessage("x"))

    @wrap_model_call
    def replace(request, handler):
        return handler(request.override(model=odd))

    agent = create_agent(FakeListChatModel(responses=["x"]), [], middleware=[replace, LLMKitMiddleware(kit)])
    with pytest.raises(ConfigError, match="model: RunnableLambda is not a chat model"):
        agent.invoke(QUESTION)


def test_it_is_there_when_asked_for():
    """The package gives it by name, and has no other name that it does not list."""
    assert llmkit_langchain.LLMKitMiddleware is LLMKitMiddleware
    with pytest.raises(AttributeError, match="LLMKitMiddlewares"):
        llmkit_langchain.LLMKitMiddlewares  # noqa: B018
