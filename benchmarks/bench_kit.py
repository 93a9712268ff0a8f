"""What each plugin adds to a call through a kit, and what all five cost together, the engine included.

The provider answers at once, so everything measured is ours. No two calls are alike, so nothing is saved by sharing.
Every call has a prompt, a user and a usage, and meets two limits; nothing is sampled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

from interleaved import Contender, measure, rounds_from_command_line, show
from prometheus_client import CollectorRegistry

from llmkit_plugins import (
    Attempt,
    Backend,
    Call,
    CircuitBreakerPlugin,
    Limit,
    LLMKit,
    MultiplexerPlugin,
    ObservabilityPlugin,
    RateLimiterPlugin,
    RouterPlugin,
    Target,
    Usage,
)

CLOCK = time.perf_counter
CALLS = 500
CHUNKS = 20
TARGETS = [Target(name, "openai", "gpt-4o-mini", input_price=0.15, output_price=0.6) for name in ("a", "b")]
LIMITS = [Limit(requests="1000000/s", per=("user",)), Limit(requests="1000000/s", per=("provider",))]

PLUGINS: dict[str, Callable[[], Any]] = {
    "observability": lambda: ObservabilityPlugin(registry=CollectorRegistry()),
    "rate limiter": lambda: RateLimiterPlugin(limits=LIMITS),
    "multiplexer": MultiplexerPlugin,
    "router": RouterPlugin,
    "circuit breaker": CircuitBreakerPlugin,
}
BARE = "no plugin"
FOUR = "four, nothing is shared"
FIVE = "all five"
BUDGETS = {FOUR: 20.0, FIVE: 45.0}
"""Microseconds."""


class Instant(Backend):
    """Answers at once."""

    targets = TARGETS

    def send(self, call: Call, attempt: Attempt | None) -> Any:
        assert attempt is not None
        attempt.usage, attempt.finish_reason = Usage(10, 20), "stop"
        return "answer"

    async def asend(self, call: Call, attempt: Attempt | None) -> Any:
        return self.send(call, attempt)

    def stream(self, call: Call, attempt: Attempt | None) -> Iterator[Any]:
        for _ in range(CHUNKS):
            yield "chunk"
        self.send(call, attempt)

    async def astream(self, call: Call, attempt: Attempt | None) -> AsyncIterator[Any]:
        for chunk in self.stream(call, attempt):
            yield chunk


def kits() -> dict[str, LLMKit]:
    chosen: dict[str, list[str]] = {BARE: [], **{name: [name] for name in PLUGINS}}
    chosen[FOUR] = [name for name in PLUGINS if name != "multiplexer"]
    chosen[FIVE] = list(PLUGINS)
    return {name: LLMKit([PLUGINS[plugin]() for plugin in plugins]) for name, plugins in chosen.items()}


_serial = count()


def another() -> Call:
    return Call([{"role": "user", "content": f"question {next(_serial)}"}], "chat", user="ann")


def calling(kit: LLMKit, backend: Backend) -> Contender:
    def run() -> float:
        begun = CLOCK()
        for _ in range(CALLS):
            kit.call(another(), backend)
        return (CLOCK() - begun) / CALLS

    return run


def streaming(kit: LLMKit, backend: Backend) -> Contender:
    def run() -> float:
        begun = CLOCK()
        for _ in range(CALLS):
            for _ in kit.stream(another(), backend):
                pass
        return (CLOCK() - begun) / CALLS

    return run


def acalling(kit: LLMKit, backend: Backend, loop: asyncio.AbstractEventLoop) -> Contender:
    async def run() -> float:
        begun = CLOCK()
        for _ in range(CALLS):
            await kit.acall(another(), backend)
        return (CLOCK() - begun) / CALLS

    return lambda: loop.run_until_complete(run())


def astreaming(kit: LLMKit, backend: Backend, loop: asyncio.AbstractEventLoop) -> Contender:
    async def run() -> float:
        begun = CLOCK()
        for _ in range(CALLS):
            async for _ in kit.astream(another(), backend):
                pass
        return (CLOCK() - begun) / CALLS

    return lambda: loop.run_until_complete(run())


def main() -> None:
    rounds = rounds_from_command_line()
    loop, backend, made = asyncio.new_event_loop(), Instant(), kits()
    ways: dict[str, Callable[[LLMKit], Contender]] = {
        "a call, sync": lambda kit: calling(kit, backend),
        "a call, async": lambda kit: acalling(kit, backend, loop),
        f"a stream of {CHUNKS} chunks, sync": lambda kit: streaming(kit, backend),
        f"a stream of {CHUNKS} chunks, async": lambda kit: astreaming(kit, backend, loop),
    }
    for title, way in ways.items():
        contenders = {name: way(kit) for name, kit in made.items()}
        show(title, measure(contenders, rounds), BARE, BUDGETS if title.startswith("a call") else None)
    loop.close()


if __name__ == "__main__":
    main()
