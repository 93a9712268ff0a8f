"""Every way to call a model, wherever it is and however the call ends, with all five plugins: each of them sees each
call and each attempt begin once and end once, over real HTTP."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from langchain.agents import create_agent
from langchain_core.exceptions import ModelError
from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, MessagesState, StateGraph
from llmkit_langchain import AsyncLLMKitCallbackHandler, ChatLLMKit, LLMKitCallbackHandler

from llmkit_plugins import (
    CircuitBreakerPlugin,
    Limit,
    LLMKit,
    MultiplexerPlugin,
    ObservabilityPlugin,
    RateLimited,
    RateLimiterPlugin,
    RouterPlugin,
)
from llmkit_plugins.testing import FakeProvider, Recorder
from llmkit_plugins.testing.fake_provider import Fault

pytestmark = [
    pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning"),
    # LangChain's own: it makes the events of all handlers, and an inline one that refuses keeps it from the rest
    pytest.mark.filterwarnings("ignore:coroutine .ahandle_event. was never awaited:RuntimeWarning"),
]

SYNC = ("invoke", "stream", "batch", "stream_events v3")
ASYNC = ("ainvoke", "astream", "abatch", "astream_events", "astream_events v3")
PLACES = ("bare", "chain", "agent", "graph")
ENDS = ("ok", "provider error", "refusal", "cancelled", "abandoned")
ATTACHED = {"ChatLLMKit": None, "handler": LLMKitCallbackHandler, "async handler": AsyncLLMKitCallbackHandler}
WHOLE = {"invoke", "ainvoke", "batch", "abatch"}


class Cell(NamedTuple):
    attached: str
    mode: str
    place: str
    end: str

    @property
    def impossible(self) -> str | None:
        """Why there is no such cell."""
        if self.place == "chain" and self.mode.endswith("v3"):
            return "LangChain's chains have no v3"
        if self.attached == "async handler" and self.mode in SYNC:
            return "LangChain lets an async handler stop no sync call"
        if self.end == "cancelled" and self.mode in SYNC:
            return "nobody can cancel a thread"
        if self.end == "abandoned" and self.mode in WHOLE:
            return "there is nothing to leave half-way"
        return None

    @property
    def read_on(self) -> bool:
        """Whether LangChain itself reads the rest of what the caller left half-way."""
        return self.end == "abandoned" and self.mode in SYNC and self.place != "bare"

    @property
    def uncertain(self) -> bool:
        """Whether LangChain may leave the second call of a batch unmade, or ask who refused a v3 once more."""
        return self.end in ("provider error", "refusal") and self.mode in ("batch", "astream_events v3")

    @property
    def untold(self) -> bool:
        """Whether LangChain leaves the end to the collector, or tells no handler of it: then the kit's end does."""
        if self.attached == "ChatLLMKit" or self.mode in SYNC:
            return self.end == "abandoned" and self.mode == "stream_events v3"
        awaited = self.mode in WHOLE or self.place in ("agent", "graph")  # their nodes await the model's whole answer
        return awaited and self.end in ("cancelled", "abandoned")


CELLS = [
    Cell(attached, mode, place, end)
    for attached in ATTACHED
    for mode in SYNC + ASYNC
    for place in PLACES
    for end in ENDS
]
OUTCOMES = {"ok": "ok", "provider error": "error", "refusal": "refused", "cancelled": "cancelled"}


def test_cells_are_named():
    """What is impossible is so for one of four reasons, and all else is tested."""
    reasons = {cell.impossible for cell in CELLS} - {None}
    assert len(reasons) == 4
    assert len(CELLS) == 3 * 9 * 4 * 5


class Watched(NamedTuple):
    """A kit with the five, between one who hears everything first and one who hears it last."""

    kit: LLMKit
    first: Recorder
    last: Recorder
    limiter: RateLimiterPlugin
    router: RouterPlugin
    observability: ObservabilityPlugin


@pytest.fixture
def watched(plugin) -> Iterator[Watched]:
    first, last = Recorder(), Recorder()
    limits = [Limit(concurrency=2, per=("user",), name="seats"), Limit(concurrency=2, per=("provider",), name="lines")]
    limiter, router, observability = (
        RateLimiterPlugin(limits=limits),
        RouterPlugin(),
        ObservabilityPlugin(own_registry=True),
    )
    plugins = [first, observability, limiter, MultiplexerPlugin(), router, CircuitBreakerPlugin(), last]
    with LLMKit(plugins, on_plugin_error="raise") as kit:
        yield Watched(kit, first, last, limiter, router, observability)


@pytest.fixture
def provider(provider) -> FakeProvider:
    return provider(reply="one two three")


class Messages:
    """A graph whose streams are those of its messages."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    def stream(self, said: Any, config: Any) -> Any:
        return self._graph.stream(said, config, stream_mode="messages")

    def astream(self, said: Any, config: Any) -> Any:
        return self._graph.astream(said, config, stream_mode="messages")


def graph_of(model: Any) -> Any:
    """A graph with one node, which calls the model."""

    def node(state: MessagesState) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    async def anode(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", RunnableLambda(node, anode))
    graph.add_edge(START, "model")
    graph.add_edge("model", END)
    return graph.compile()


@pytest.fixture
def runnable(watched, provider, chat_openai, chain_of):
    """What is called in a cell: both targets are at one provider."""

    def make(cell: Cell) -> Any:
        models = {name: chat_openai(provider, name) for name in ("m-1", "m-2")}
        model = ChatLLMKit(models, watched.kit) if cell.attached == "ChatLLMKit" else models["m-1"]
        if cell.place == "bare":
            return model
        if cell.place == "chain":
            return chain_of(model)
        return Messages(create_agent(model, []) if cell.place == "agent" else graph_of(model))

    return make


def said_in(cell: Cell) -> Any:
    """The question; a batch asks two, which nobody shares."""
    ask = {
        "bare": lambda text: text,
        "chain": lambda text: {"topic": text},
    }.get(cell.place, lambda text: {"messages": [("user", text)]})
    return [ask("one"), ask("two")] if "batch" in cell.mode else ask("one")


@pytest.fixture
def collected(cell):
    """The events that LangChain never awaited are collected here and not in somebody else's test."""
    yield
    if cell.attached != "ChatLLMKit" and cell.end == "refusal":
        gc.collect()


@pytest.mark.parametrize("cell", [cell for cell in CELLS if not cell.impossible], ids="-".join)
async def test_begins_and_ends_once(cell, watched, runnable, provider, ask, listen, cancel, plugin, collected):
    """Each plugin sees the call begin once and end once, and nothing of it is left."""
    kit, calls = watched.kit, 2 if "batch" in cell.mode else 1
    handler = ATTACHED[cell.attached]
    config = {"callbacks": [handler(kit)] if handler else [], "metadata": {"user": "u1"}}
    model, said = runnable(cell), said_in(cell)

    if cell.end == "ok":
        assert await ask(cell.mode, model, config, said) == ["one two three"] * calls
    elif cell.end == "provider error":
        provider.fail_with(Fault("server_error"))
        with pytest.raises(ModelError, match="500") as caught:
            await ask(cell.mode, model, config, said)
        assert caught.value.is_retryable
    elif cell.end == "refusal":
        kit.register(plugin(pre_request=refuse))
        with pytest.raises(RateLimited) as caught:
            await ask(cell.mode, model, config, said)
        assert isinstance(caught.value, ModelError)
        assert (caught.value.is_retryable, caught.value.retry_after) == (True, 1.5)
        assert provider.stats.requests == 0
    elif cell.end == "cancelled":
        provider.slow_down(first_token_seconds=60)
        await cancel(provider, ask(cell.mode, model, config, said), calls)
        await asyncio.to_thread(provider.wait_until, lambda stats: stats.clients_left == calls)
    else:
        provider.slow_down(per_token_seconds=0.0 if cell.read_on else 60)
        await listen(cell.mode, model, config, said)
    if cell.untold:
        gc.collect()
        kit.close()
    if cell.end == "abandoned" and cell.attached == "ChatLLMKit" and not cell.read_on:
        await asyncio.to_thread(provider.wait_until, lambda stats: stats.clients_left == 1)

    async with asyncio.timeout(10):  # who leaves does not wait for the upstream to end
        while watched.first.open or watched.last.open:  # noqa: ASYNC110 - nothing tells of the end of an upstream
            await asyncio.sleep(0.001)

    outcome = "ok" if cell.read_on else OUTCOMES.get(cell.end, "cancelled")
    attempts = 0 if cell.end == "refusal" else watched.first.counts["request"]
    if cell.end == "provider error" and cell.attached == "ChatLLMKit":
        attempts *= 2
    for recorder in (watched.first, watched.last):
        begun = recorder.counts["request"]
        assert begun == calls or (cell.uncertain and 1 <= begun <= 2)
        assert recorder.counts[f"request {outcome}"] == begun
        assert recorder.counts["attempt"] == recorder.counts[f"attempt {outcome}"] == attempts
    told = Counter()
    for family in watched.observability.registry.collect():
        for sample in family.samples:
            told[sample.name] += sample.value
    assert told["llmkit_request_active"] == 0
    assert told["llmkit_request_duration_seconds_count"] == watched.first.counts["request"]
    assert told["llmkit_attempt_duration_seconds_count"] == attempts
    assert all(stats.in_flight == 0 for stats in watched.router.router.stats().values())
    permits = watched.limiter.limiter
    with permits.acquire("openai", user="u1"), permits.acquire("openai", user="u1"):  # all that there are
        pass


def refuse(call: Any) -> None:
    raise RateLimited("per user", "u1", 1.5)
