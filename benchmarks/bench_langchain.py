"""What LangChain's ways into a kit cost a call, beside its own callbacks, fallbacks and rate limiter, in one run: a
model that answers at once is called alone, with a handler, and inside a ``ChatLLMKit``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from interleaved import Contender, measure, rounds_from_command_line, show
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.rate_limiters import InMemoryRateLimiter
from llmkit_langchain import (
    AsyncLLMKitCallbackHandler,
    ChatLLMKit,
    LLMKitCallbackHandler,
    LLMKitRateLimiter,
    llmkit_context,
)
from prometheus_client import CollectorRegistry

from llmkit_plugins import (
    CircuitBreakerPlugin,
    Limit,
    LLMKit,
    MultiplexerPlugin,
    ObservabilityPlugin,
    RateLimiter,
    RateLimiterPlugin,
    RouterPlugin,
)

CLOCK = time.perf_counter
CALLS = 300
ALONE = "the model alone"
HANDLER_SHARE = 0.15
"""The part of a call of the model alone that a handler may cost."""
ROUTED_MICROSECONDS = 80.0
"""What a ``ChatLLMKit`` with all five plugins may cost over the model alone."""
PLENTY = Limit(requests="1000000/s", per=("user",))


class Instant(BaseChatModel):
    """Answers at once, awaited as well: LangChain's own fake awaits a thread, which is all one would measure."""

    @property
    def _llm_type(self) -> str:
        return "instant"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("one two three"))])

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return self._generate(messages)


class NoOp(BaseCallbackHandler):
    """Hears everything and does nothing."""


class InlineNoOp(BaseCallbackHandler):
    """The same in the caller's own task, as the kit's handlers are."""

    run_inline = True


class AsyncNoOp(AsyncCallbackHandler):
    """The same, awaited."""


class Deaf(InlineNoOp):
    """Does nothing where a kit's handlers do something: what LangChain itself takes to tell one. Without a method of
    its own for chat models, as above, LangChain makes a text of the prompt besides."""

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        pass

    def on_llm_end(self, *_: Any, **__: Any) -> None:
        pass


def five() -> list[Any]:
    """All five, as they come, but that nothing is refused."""
    limiter = RateLimiterPlugin(limits=[PLENTY])
    return [
        ObservabilityPlugin(CollectorRegistry()),
        limiter,
        MultiplexerPlugin(),
        RouterPlugin(),
        CircuitBreakerPlugin(),
    ]


def handlers(kit: LLMKit, *others: BaseCallbackHandler, cls: Any = LLMKitCallbackHandler) -> dict[str, Any]:
    return {"callbacks": [cls(kit), *others], "metadata": {"user": "u1"}}


def each(call: Callable[[], Any]) -> Contender:
    def run() -> float:
        begun = CLOCK()
        for _ in range(CALLS):
            call()
        return (CLOCK() - begun) / CALLS

    return run


def aeach(call: Callable[[], Awaitable[Any]]) -> Contender:
    async def calls() -> float:
        begun = CLOCK()
        for _ in range(CALLS):
            await call()
        return (CLOCK() - begun) / CALLS

    return lambda: asyncio.run(calls())


def both_ways(rounds: int) -> None:
    """Whole answers, sync and async."""
    model, user = Instant(), {"metadata": {"user": "u1"}}
    bare, all_five = LLMKit(), LLMKit(five())
    routed = {"no plugin": ChatLLMKit({"a": Instant()}, bare), "all five": ChatLLMKit({"a": Instant()}, all_five)}
    fallbacks = model.with_fallbacks([Instant()])
    limited = Instant(
        rate_limiter=InMemoryRateLimiter(requests_per_second=1e6, check_every_n_seconds=0.001, max_bucket_size=1e6)
    )
    ours = Instant(rate_limiter=LLMKitRateLimiter(RateLimiter([PLENTY])))

    def in_context() -> Any:
        with llmkit_context(bare, user="u1"):
            return model.invoke("hi")

    sync = {
        ALONE: each(lambda: model.invoke("hi", user)),
        "LangChain's no-op handler": each(with_config(model, {"callbacks": [NoOp()], **user})),
        "a handler with the same hooks, empty": each(with_config(model, {"callbacks": [Deaf()], **user})),
        "our handler, no plugin": each(with_config(model, handlers(bare))),
        "our handler, all five": each(with_config(model, handlers(all_five))),
        "llmkit_context, no plugin": each(in_context),
        "ChatLLMKit, no plugin": each(lambda: routed["no plugin"].invoke("hi", user)),
        "ChatLLMKit, all five": each(lambda: routed["all five"].invoke("hi", user)),
        "LangChain's with_fallbacks": each(lambda: fallbacks.invoke("hi", user)),
        "LangChain's InMemoryRateLimiter": each(lambda: limited.invoke("hi", user)),
        "LLMKitRateLimiter": each(lambda: ours.invoke("hi", user)),
    }
    tell("invoke", sync, rounds)

    awaited = {
        ALONE: aeach(lambda: model.ainvoke("hi", user)),
        "LangChain's no-op handler": aeach(with_aconfig(model, {"callbacks": [NoOp()], **user})),
        "LangChain's no-op handler, inline": aeach(with_aconfig(model, {"callbacks": [InlineNoOp()], **user})),
        "a handler with the same hooks, empty": aeach(with_aconfig(model, {"callbacks": [Deaf()], **user})),
        "LangChain's no-op handler, async": aeach(with_aconfig(model, {"callbacks": [AsyncNoOp()], **user})),
        "our handler, no plugin": aeach(with_aconfig(model, handlers(bare))),
        "our async handler, no plugin": aeach(with_aconfig(model, handlers(bare, cls=AsyncLLMKitCallbackHandler))),
        "our handler, all five": aeach(with_aconfig(model, handlers(all_five))),
        "ChatLLMKit, no plugin": aeach(lambda: routed["no plugin"].ainvoke("hi", user)),
        "ChatLLMKit, all five": aeach(lambda: routed["all five"].ainvoke("hi", user)),
        "LangChain's with_fallbacks": aeach(lambda: fallbacks.ainvoke("hi", user)),
    }
    tell("ainvoke", awaited, rounds)


def with_config(model: BaseChatModel, config: Any) -> Callable[[], Any]:
    return lambda: model.invoke("hi", config)


def with_aconfig(model: BaseChatModel, config: Any) -> Callable[[], Awaitable[Any]]:
    return lambda: model.ainvoke("hi", config)


def streams(rounds: int) -> None:
    """A stream of fifty chunks, by the chunk."""
    model, user = FakeListChatModel(responses=["x" * 50]), {"metadata": {"user": "u1"}}
    kit = LLMKit(five())
    routed = ChatLLMKit({"a": model}, kit)
    contenders = {
        ALONE: each_chunk(lambda: model.stream("hi", user)),
        "LangChain's no-op handler": each_chunk(lambda: model.stream("hi", {"callbacks": [NoOp()], **user})),
        "our handler, all five": each_chunk(lambda: model.stream("hi", handlers(kit))),
        "ChatLLMKit, all five": each_chunk(lambda: routed.stream("hi", user)),
    }
    show("stream of 50 chunks, by the chunk", measure(contenders, rounds), ALONE)


def each_chunk(stream: Callable[[], Any]) -> Contender:
    def run() -> float:
        begun, chunks = CLOCK(), 0
        for _ in range(CALLS // 20):
            chunks += sum(1 for _ in stream())
        return (CLOCK() - begun) / chunks

    return run


def tell(title: str, contenders: Mapping[str, Contender], rounds: int) -> None:
    """The table, with the budgets that follow from what the model alone took in the same run."""
    medians = measure(contenders, rounds)
    alone = medians[ALONE] * 1e6
    budgets = {
        "our handler, no plugin": alone * (1 + HANDLER_SHARE),
        "ChatLLMKit, all five": alone + ROUTED_MICROSECONDS,
    }
    show(title, medians, ALONE, budgets)


def main() -> None:
    rounds = rounds_from_command_line()
    both_ways(rounds)
    streams(rounds)


if __name__ == "__main__":
    main()
