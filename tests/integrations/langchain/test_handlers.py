"""The callback handlers on a plain ``ChatOpenAI``: what plugins are told of each call, over real HTTP. That each begins
and ends once, however it ends, is in ``test_cells``."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
from uuid import uuid4

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import ModelError
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, LLMResult
from llmkit_langchain import AsyncLLMKitCallbackHandler, ChatLLMKit, LLMKitCallbackHandler, targets
from llmkit_langchain.complaints import complain
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from prometheus_client import CollectorRegistry

from llmkit_plugins import CircuitOpen, LLMKit, ObservabilityPlugin, RateLimited, Refused, Share, Target, Usage, Wait
from llmkit_plugins.testing import ManualClock
from llmkit_plugins.testing.fake_provider import Fault

pytestmark = [
    pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning"),
    # LangChain's own: it makes the events of all handlers, and an inline one that refuses keeps it from the rest
    pytest.mark.filterwarnings("ignore:coroutine .ahandle_event. was never awaited:RuntimeWarning"),
]

SYNC = ("invoke", "stream", "batch", "stream_events v3")
ASYNC = ("ainvoke", "astream", "abatch", "astream_events", "astream_events v3")
STREAMED = {"stream", "astream", "astream_events", "stream_events v3", "astream_events v3"}
CASES = [
    (mode, where, cls)
    for cls, modes in ((LLMKitCallbackHandler, SYNC + ASYNC), (AsyncLLMKitCallbackHandler, ASYNC))
    for mode in modes
    for where in ("bare", "chain")
    if not (mode.endswith("v3") and where == "chain")
]

times = {"batch": 2, "abatch": 2}


@pytest.fixture
def plain(first, chat_openai):
    """A model that knows nothing of kits."""
    return chat_openai(first, "m-1")


@pytest.fixture
def asked(plain, chain_of, ask, kit):
    """Ask the model, alone or in a chain, with a handler."""

    async def asked(mode, where, handler, **metadata):
        config = {"callbacks": [handler(kit)], "metadata": metadata}
        return await ask(mode, plain if where == "bare" else chain_of(plain), config)

    return asked


@pytest.mark.parametrize(("mode", "where", "handler"), CASES)
async def test_ok(mode, where, handler, asked, recorder):
    """Each call is one request and one attempt, with its user, its usage and its first chunk where it is streamed."""
    calls = times.get(mode, 1)
    assert await asked(mode, where, handler, user_id="u1", tenant="t1") == ["one two three"] * calls
    assert recorder.counts["request ok"] == recorder.counts["attempt ok"] == calls
    assert recorder.counts["request"] == recorder.counts["attempt"] == calls
    assert {(call.user, call.tenant, call.model) for call in recorder.calls} == {("u1", "t1", "m-1")}
    for attempt in recorder.attempts:
        assert (attempt.usage, attempt.finish_reason, attempt.model) == (Usage(1, 3), "stop", "m-1")
        assert (attempt.first_chunk is not None) == (mode in STREAMED)
        assert (attempt.target.provider, attempt.target.model) == ("openai", "m-1")


@pytest.mark.parametrize(("mode", "where", "handler"), CASES)
async def test_provider_error(mode, where, handler, asked, recorder, first):
    """What the provider said is told with its kind and how long to stay away, and reaches the caller."""
    first.fail_with(Fault("rate_limit", retry_after=7))
    with pytest.raises(ModelError):
        await asked(mode, where, handler)
    assert recorder.counts["request error"] == recorder.counts["attempt error"] == recorder.counts["request"] >= 1
    assert {(attempt.kind, attempt.retry_after) for attempt in recorder.attempts} == {("rate_limit", 7)}


@pytest.fixture
def collected():
    """The events that LangChain never awaited are collected here and not in somebody else's test."""
    yield
    gc.collect()


@pytest.mark.parametrize(("mode", "where", "handler"), CASES)
async def test_refused(mode, where, handler, asked, collected, recorder, kit, plugin, first):
    """What a plugin refuses stops the call before it is sent."""

    def guard(call, attempt):
        raise CircuitOpen(attempt.target.name, 3.0)

    kit.register(plugin(pre_attempt=guard))
    with pytest.raises(CircuitOpen) as caught:
        await asked(mode, where, handler)
    assert isinstance(caught.value, ModelError)
    assert (caught.value.is_retryable, caught.value.target) == (True, "openai/m-1")
    assert recorder.counts["request refused"] == recorder.counts["attempt refused"] == recorder.counts["request"] >= 1
    assert first.stats.requests == 0


@pytest.mark.parametrize("cls", [LLMKitCallbackHandler, AsyncLLMKitCallbackHandler])
async def test_cancelled_task_ends_what_langchain_never_does(cls, plain, chain_of, cancel, kit, recorder, first):
    """An ``ainvoke`` whose task is cancelled ends with it, though LangChain tells nobody; of many calls in one task
    nothing is left but the one under way."""
    handler = cls(kit)

    async def three():
        for _ in range(2):
            await chain_of(plain).ainvoke("hi", {"callbacks": [handler]})
        first.slow_down(first_token_seconds=60)
        await chain_of(plain).ainvoke("hi", {"callbacks": [handler]})

    await cancel(first, three(), 3)
    assert (recorder.counts["request ok"], recorder.counts["request cancelled"]) == (2, 1)
    assert not (recorder.open or kit.leases or handler._runs or handler._runs._watched)


async def test_lease_ends_what_langchain_never_does(plain, recorder, plugin, first):
    """An ``ainvoke`` that is cancelled within its task is ended by its lease, when the next call begins."""
    clock = ManualClock()
    kit = LLMKit([recorder], clock=clock, lease_seconds=60)
    handler = LLMKitCallbackHandler(kit)
    first.slow_down(first_token_seconds=60)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await plain.ainvoke("hi", {"callbacks": [handler]})
    assert recorder.open
    assert len(handler._runs) == 1
    clock.advance(61)
    first.heal()
    await plain.ainvoke("hi", {"callbacks": [handler]})
    assert recorder.counts["request cancelled"] == recorder.counts["request ok"] == 1
    assert not recorder.open
    assert not handler._runs


async def test_waits_where_it_may(plain, kit, plugin, recorder):
    """The async handler awaits where a plugin waits; the sync one refuses, with the time it would have waited."""

    def slow(call):
        yield Wait(0.001)

    kit.register(plugin(pre_request=slow))
    await plain.ainvoke("hi", {"callbacks": [AsyncLLMKitCallbackHandler(kit)]})
    with pytest.raises(Refused) as caught:
        await plain.ainvoke("hi", {"callbacks": [LLMKitCallbackHandler(kit)]})
    assert isinstance(caught.value, ModelError)
    assert caught.value.retry_after == 0.001
    assert (recorder.counts["request ok"], recorder.counts["request refused"]) == (1, 1)


def test_several_handlers_of_a_kit_count_once(plain, kit, recorder):
    """Two handlers of one kit on one call, one on the chain and one on the model, are one request."""
    plain.callbacks = [LLMKitCallbackHandler(kit)]
    plain.invoke("hi", {"callbacks": [LLMKitCallbackHandler(kit)]})
    list(plain.stream("hi", {"callbacks": [LLMKitCallbackHandler(kit)]}))
    assert recorder.counts["request ok"] == recorder.counts["request"] == recorder.counts["attempt"] == 2


@pytest.mark.parametrize("event", ["on_start", "on_end"])
def test_spans_that_cannot_be_made(event, plain, chain_of, monkeypatch, caplog):
    """What fails where spans are processed is logged, once, and no chain fails of it."""

    def fail(*_):
        raise RuntimeError("no room")

    complain.cache_clear()
    tracers, processor = TracerProvider(), SpanProcessor()
    monkeypatch.setattr(processor, event, fail)
    tracers.add_span_processor(processor)
    kit = LLMKit([ObservabilityPlugin(registry=CollectorRegistry(), tracer_provider=tracers)])
    for _ in range(2):
        chain_of(plain).invoke("hi", {"callbacks": [LLMKitCallbackHandler(kit)]})
    assert len([record for record in caplog.records if record.message.startswith("the span of a run could not")]) == 1


def test_handler_in_a_copy(plain, kit, recorder):
    """A config that is copied, as deep as can be, has the same handler."""
    config = {"callbacks": [LLMKitCallbackHandler(kit)]}
    plain.callbacks = copy.deepcopy(config)["callbacks"]
    plain.invoke("hi", config)
    assert recorder.counts["request ok"] == recorder.counts["request"] == 1


@pytest.mark.parametrize(("mode", "handler"), [(mode, handler) for mode, where, handler in CASES if where == "bare"])
async def test_model_of_the_same_kit_counts_once(mode, handler, model, ask, kit, recorder):
    """A handler leaves alone what a ``ChatLLMKit`` of its kit sends."""
    await ask(mode, model, {"callbacks": [handler(kit)]})
    calls = times.get(mode, 1)
    assert recorder.counts["request ok"] == recorder.counts["request"] == recorder.counts["attempt"] == calls


def test_model_of_another_kit_is_observed(first, chat_openai, kit, recorder):
    """A handler of another kit sees a ``ChatLLMKit`` as it sees any model."""
    other = ChatLLMKit(models={"a": chat_openai(first, "m-1")}, kit=LLMKit())
    other.invoke("hi", {"callbacks": [LLMKitCallbackHandler(kit)]})
    assert recorder.counts["request ok"] == 1
    assert recorder.attempts[0].usage == Usage(1, 3)


def test_cache_hit_costs_nothing(plain, recorder, first):
    """What LangChain's cache answers was not sent: no tokens, no cost, no duration; the call ended well."""
    kit = LLMKit([recorder], [Target("cheap", "openai", "m-1", input_price=1e6, output_price=1e6)])
    plain.cache = InMemoryCache()
    for _ in range(2):
        plain.invoke("hi", {"callbacks": [LLMKitCallbackHandler(kit)]})
    sent, cached = recorder.attempts
    assert (sent.cost, sent.usage) == (4.0, Usage(1, 3))
    assert (cached.cost, cached.usage, cached.duration, cached.outcome) == (0.0, Usage(), None, "ok")
    assert recorder.counts["request ok"] == 2
    assert first.stats.requests == 1


def test_text_models(kit, recorder):
    """A model that only completes text is observed too, its tokens by OpenAI's name."""
    FakeListLLM(responses=["done"]).invoke("hi", {"callbacks": [LLMKitCallbackHandler(kit)]})
    (call,) = recorder.calls
    assert (call.operation, call.messages, recorder.counts["request ok"]) == ("text_completion", "hi", 1)

    handler, run_id = LLMKitCallbackHandler(kit), uuid4()
    handler.on_llm_start({}, ["hi"], run_id=run_id, metadata={})
    usage = {"token_usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    handler.on_llm_end(LLMResult(generations=[[]], llm_output=usage), run_id=run_id)
    assert recorder.counts["request ok"] == 2


def test_target_of_the_kit_is_known_by_its_model(plain, recorder):
    """The kit's target of the same provider and model gives the prices; else one is made, once."""
    target = Target("cheap", "openai", "m-1", input_price=1.0, output_price=2.0)
    plain.invoke("hi", {"callbacks": [LLMKitCallbackHandler(LLMKit([recorder], [target]))]})
    assert recorder.attempts[0].target is target
    kit = LLMKit([recorder])
    for _ in range(2):
        plain.invoke("hi", {"callbacks": [LLMKitCallbackHandler(kit)]})
    assert recorder.attempts[1].target is recorder.attempts[2].target
    assert recorder.attempts[1].target.name == "openai/m-1"


def test_first_chunk_is_the_first_that_says_something(recorder):
    """A chunk that only names the role is not the first one; plain text models tell their text alone."""
    clock = ManualClock()
    handler, run_id, other = LLMKitCallbackHandler(LLMKit([recorder], clock=clock)), uuid4(), uuid4()
    handler.on_chat_model_start({}, [[]], run_id=run_id, metadata={})
    handler.on_llm_start({}, ["hi"], run_id=other, metadata={})
    for text in ("", "one", "two"):
        clock.advance(1)
        handler.on_llm_new_token(text, chunk=ChatGenerationChunk(message=AIMessageChunk(text)), run_id=run_id)
        handler.on_llm_new_token(text, run_id=other)
    assert [attempt.time_to_first_chunk for attempt in recorder.attempts] == [2.0, 2.0]


def test_says_once_what_it_cannot(plain, plugin, caplog):
    """Where a plugin would route or share, the log says once that a handler cannot; the call goes on."""
    kit = LLMKit([plugin("router", route=lambda call, targets: targets, pre_request=lambda call: Share("key"))])
    with caplog.at_level(logging.WARNING, "llmkit"):
        for _ in range(2):
            plain.invoke("hi", {"callbacks": [LLMKitCallbackHandler(kit)]})
    (record,) = caplog.records
    assert "router" in record.message
    assert "ChatLLMKit" in record.message


@pytest.mark.parametrize("running_loop", [False, True])
def test_async_handler_says_that_a_sync_call_cannot_be_refused(running_loop, plain, kit, plugin, recorder, caplog):
    """In a sync call the async handler only observes, and says so once."""

    def refuse(call):
        raise RateLimited("per user", "u1", 1.0)

    async def within_a_loop():
        plain.invoke("hi", config)

    config = {"callbacks": [AsyncLLMKitCallbackHandler(kit)]}
    kit.register(plugin(pre_request=refuse))
    with caplog.at_level(logging.WARNING, "llmkit"):
        for _ in range(2):
            asyncio.run(within_a_loop()) if running_loop else plain.invoke("hi", config)
    told = [record for record in caplog.records if "sync call" in record.message]
    assert len(told) == 1
    assert recorder.counts["request refused"] == 2


async def test_async_handler_in_an_async_call_warns_of_nothing(plain, kit, caplog):
    """Where it can refuse, the async handler has nothing to say."""
    with caplog.at_level(logging.WARNING, "llmkit"):
        await plain.ainvoke("hi", {"callbacks": [AsyncLLMKitCallbackHandler(kit)]})
        [chunk async for chunk in plain.astream("hi", {"callbacks": [AsyncLLMKitCallbackHandler(kit)]})]
    assert not [record for record in caplog.records if "sync call" in record.message]


def test_models_of_any_name_are_not_remembered_for_ever(kit, monkeypatch):
    """Where users choose the name of the model, each makes a target; the oldest go."""
    for module in ("handlers", "targets"):
        monkeypatch.setattr(f"llmkit_langchain.{module}.MOST_TARGETS", 5)
    handler = LLMKitCallbackHandler(kit)
    for number in range(20):
        run_id, told = uuid4(), {"ls_provider": "p", "ls_model_name": f"m-{number}"}
        handler.on_chat_model_start({}, [[]], run_id=run_id, metadata=told)
        handler.on_llm_end(LLMResult(generations=[]), run_id=run_id)
    assert len(handler._targets) <= 5
    assert len(targets._made[kit]) <= 5
