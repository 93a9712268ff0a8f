"""How many requests are processed at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType


class Capacity:
    """An async context manager that admits *limit* at a time (None: all), first come, first served.

    *changed* is called with how many are inside and how many wait. Unlike a semaphore's, the limit may be changed at
    any time; those inside stay.
    """

    def __init__(self, changed: Callable[[int, int], None]) -> None:
        self.limit: int | None = None
        self._changed = changed
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self.let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._inside -= 1
            elif turn in self._waiting:
                self._waiting.remove(turn)
            self.let_in()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inside -= 1
        self.let_in()

    def let_in(self) -> None:
        """Admit as many waiters as there is room for."""
        while self._waiting and (self.limit is None or self._inside < self.limit):
            turn = self._waiting.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                self._inside += 1
        self._changed(self._inside, len(self._waiting))
