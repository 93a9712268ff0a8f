"""The context around calls, and the rate limiter that reads who is calling from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest
from langchain_core.exceptions import ModelError
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tracers.context import _configure_hooks
from llmkit_langchain import ChatLLMKit, LLMKitRateLimiter, llmkit_context

from llmkit_plugins import ConfigError, Limit, LLMKit, RateLimited, RateLimiter, RateLimiterPlugin, hookimpl


class Watch:
    """Remembers whose calls it saw begin, and how they ended."""

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, str | None]] = []

    @hookimpl
    def llmkit_post_response(self, call: Any) -> None:
        self.seen.append((call.user, call.tenant))


@pytest.fixture
def model() -> FakeListChatModel:
    return FakeListChatModel(responses=["Hello."])


def test_calls_inside_are_seen_with_their_user(model: FakeListChatModel) -> None:
    """A call inside is the context's user's, unless its metadata names another; one outside is not seen."""
    watch = Watch()
    with llmkit_context(LLMKit([watch]), user="ann", tenant="acme"):
        model.invoke("hi")
        model.invoke("hi", config={"metadata": {"user": "bob"}})
    model.invoke("hi")
    assert watch.seen == [("ann", "acme"), ("bob", "acme")]


def test_it_reaches_chains_and_threads(model: FakeListChatModel) -> None:
    """Below a parallel chain, whose branches run in threads, each call is seen once."""
    watch = Watch()
    chain = RunnableLambda(lambda text: text) | RunnableParallel(a=model, b=model)
    with llmkit_context(LLMKit([watch]), user="ann"):
        chain.invoke("hi")
    assert watch.seen == [("ann", None), ("ann", None)]


async def test_it_reaches_tasks(model: FakeListChatModel) -> None:
    """An awaited call inside is seen too."""
    watch = Watch()
    with llmkit_context(LLMKit([watch]), user="ann"):
        await model.ainvoke("hi")
    assert watch.seen == [("ann", None)]


def test_a_generator_may_end_elsewhere(model: FakeListChatModel) -> None:
    """A web server runs each step of a generator in a thread, and so a context, of its own: it ends well all the
    same."""
    watch = Watch()

    def answer() -> Iterator[str]:
        with llmkit_context(LLMKit([watch]), user="ann"):
            for chunk in model.stream("hi"):
                yield str(chunk.text)

    chunks = answer()
    said = list(iter(lambda: copy_context().run(next, chunks, None), None))
    assert ("".join(said), watch.seen) == ("Hello.", [("ann", None)])


def test_an_inner_context_stands_in_for_the_outer(model: FakeListChatModel) -> None:
    """The inner kit sees the inner call, and afterwards the outer one is back."""
    outer, inner = Watch(), Watch()
    with llmkit_context(LLMKit([outer]), user="out"):
        with llmkit_context(LLMKit([inner]), user="in"):
            model.invoke("hi")
        model.invoke("hi")
    assert (inner.seen, outer.seen) == ([("in", None)], [("out", None)])


def test_many_contexts_leave_nothing_behind(model: FakeListChatModel) -> None:
    """LangChain is told of them once, when the package is loaded: its own contexts tell it anew each time."""
    hooks = len(_configure_hooks)
    for _ in range(5):
        with llmkit_context(LLMKit(), user="ann"):
            model.invoke("hi")
    assert len(_configure_hooks) == hooks


def test_a_refusal_stops_the_call(model: FakeListChatModel) -> None:
    """What a plugin refuses is not sent, and is an error that LangChain's users catch."""
    kit = LLMKit([RateLimiterPlugin(limits=[Limit(requests="1/min", per="user")])])
    with llmkit_context(kit, user="ann"):
        model.invoke("hi")
        with pytest.raises(RateLimited) as refused:
            model.invoke("hi")
    assert isinstance(refused.value, ModelError)


def limited_model(limiter: RateLimiter) -> FakeListChatModel:
    return FakeListChatModel(responses=["Hello."], rate_limiter=LLMKitRateLimiter(limiter))


def test_the_limiter_raises_for_the_user_of_the_context() -> None:
    """LangChain ignores a limiter's False, so it raises; another user has a limit of his own."""
    model = limited_model(RateLimiter([Limit(requests="1/min", per="user")]))
    with llmkit_context(LLMKit(), user="ann"):
        model.invoke("hi")
        with pytest.raises(RateLimited) as refused:
            model.invoke("hi")
    assert refused.value.key == "ann"
    assert refused.value.retry_after == pytest.approx(60.0, abs=5.0)
    with llmkit_context(LLMKit(), user="bob"):
        model.invoke("hi")


async def test_the_limiter_knows_the_user_of_a_chain() -> None:
    """In a chain it is the one of the metadata the chain was called with; async as sync."""
    chain = RunnableLambda(lambda text: text) | limited_model(RateLimiter([Limit(requests="1/min", per="user")]))
    config: Any = {"metadata": {"user_id": "ann"}}
    await chain.ainvoke("hi", config=config)
    with pytest.raises(RateLimited):
        await chain.ainvoke("hi", config=config)
    with pytest.raises(RateLimited):
        chain.invoke("hi", config=config)


@pytest.mark.parametrize("mode", ["invoke", "stream"])
def test_the_limiter_knows_the_user_of_a_routed_call(mode: str) -> None:
    """Where a ``ChatLLMKit`` sends the call, it is the one of the call's own metadata, chain or none; who is over the
    limit is served by the next model."""
    limited = limited_model(RateLimiter([Limit(requests="1/min", per="user")]))
    model = ChatLLMKit({"limited": limited, "other": FakeListChatModel(responses=["from the other"])}, LLMKit())

    def answer(user: str) -> str:
        said = getattr(model, mode)("hi", config={"metadata": {"user": user}})
        return str(said.text) if mode == "invoke" else "".join(str(chunk.text) for chunk in said)

    assert [answer(user) for user in ("ann", "ann", "bob")] == ["Hello.", "from the other", "Hello."]


def test_the_limiter_waits_its_turn() -> None:
    """Where the limiter lets calls wait, the model is called when it is its turn."""
    limiter = RateLimiter([Limit(requests="200/s", burst=1)], on_limit="wait", max_wait_seconds=5)
    model = limited_model(limiter)
    for _ in range(4):
        model.invoke("hi")
    assert sum(stats.waited for stats in limiter.stats().values()) >= 1
    assert not all(LLMKitRateLimiter(limiter).acquire(blocking=False) for _ in range(3))


def test_a_limit_that_could_never_be_released_is_refused() -> None:
    """Concurrency is no matter for a limiter that is not told when a call ends."""
    with pytest.raises(ConfigError, match="ChatLLMKit"):
        LLMKitRateLimiter(RateLimiter([Limit(concurrency=3)]))
