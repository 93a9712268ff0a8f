"""A manually advanced clock, and an event loop that runs on it, so that waiting in a test takes no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class ManualClock:
    """A clock that stands still until it is moved. ``LLMKit(clock=clock)`` reads it, and sleeps by moving it."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass instantly. Raises ``ValueError`` if negative: a clock never goes backwards."""
        if not seconds >= 0:
            raise ValueError(f"a clock cannot go back by {-seconds:g} s")
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        """Let *seconds* pass instantly: the sync drivers call this instead of sleeping."""
        self.advance(seconds)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* on an event loop of this clock: when nothing can run, time jumps to the next timer.

        So ``asyncio.sleep`` and ``asyncio.timeout`` pass in no time and in the right order. Threads and sockets do not
        know this clock: while a timer is pending, nobody waits for them.
        """
        with asyncio.Runner(loop_factory=lambda: _ManualLoop(self)) as runner:
            return runner.run(coroutine)


class _ManualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: ManualClock) -> None:
        super().__init__(_ManualSelector(clock))
        self._clock = clock

    def time(self) -> float:
        return self._clock.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002
        """Wait for the threads without a timeout: it would expire at once, as they do not follow this clock."""
        await super().shutdown_default_executor()


class _ManualSelector(selectors.DefaultSelector):
    """Advances the clock to the next timer instead of blocking until it is due."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # no timer is pending: only another thread or a socket can make progress
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self._clock.advance(max(0.0, timeout))
        return ready
