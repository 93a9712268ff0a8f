"""An upstream shared by many callers, with an append-only log of its chunks.

Under asyncio it is a task of its own. In threads, the caller that needs the next chunk pulls it, so no extra thread is
needed. Both run in a copy of the context of the caller that started them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llmkit_plugins.call import Call
from llmkit_plugins.engine.size import SAMPLED, size_of
from llmkit_plugins.errors import UpstreamLost
from llmkit_plugins.steps import Share

if TYPE_CHECKING:
    from llmkit_plugins.engine.sharing import Flights

log = logging.getLogger("llmkit")

inside: ContextVar[tuple[Hashable, ...]] = ContextVar("llmkit_inside", default=())
"""The keys of the upstreams that the current code runs inside."""
Key = tuple[Hashable, ...]
"""The share's key, whether the call is streamed, and the event loop (None in threads)."""
Upstream = TypeVar("Upstream")
Source = Callable[[Any], Upstream]
"""Opens the upstream of the flight it is given, which runs until the flight's deadline. In a thread it returns an
iterator of chunks, or the whole answer; under asyncio it appends chunks to the flight's log, or returns the whole
answer."""
Waiter = TypeVar("Waiter")


class Flight(Generic[Waiter]):
    """The upstream that *call* started, and everything received from it so far."""

    __slots__ = (
        "_bytes",
        "_measured",
        "boarded",
        "born",
        "call",
        "error",
        "flights",
        "key",
        "landed",
        "log",
        "over",
        "seats",
        "waiting",
    )

    def __init__(self, flights: Flights, key: Key, call: Call) -> None:
        self.flights, self.key, self.call = flights, key, call
        self.born = flights.clock()
        self.log: list[Any] = []
        self.waiting: list[Waiter] = []
        self.landed: Callable[[Flight[Any]], None] | None = None
        self.seats = self.boarded = 1
        """Callers that have a seat now, and that ever had one."""
        self._bytes = self._measured = 0
        self.over = False
        self.error: BaseException | None = None

    def board(self, call: Call) -> None:  # noqa: ARG002
        """Add a caller."""
        self.seats += 1
        self.boarded += 1

    def admits(self, share: Share) -> bool:
        """Whether another caller may join, by the bounds of *share*."""
        if log := self.log:
            if share.max_chunks is not None and len(log) > share.max_chunks:
                return False
            if share.max_bytes is not None and self.held_bytes() > share.max_bytes:
                return False
        return share.max_age_seconds is None or self.flights.clock() - self.born <= share.max_age_seconds

    def held_bytes(self) -> int:
        """Estimated bytes of its chunks: of those added since the last call, the first of every 16 is measured."""
        while (new := min(SAMPLED, len(self.log) - self._measured)) > 0:
            self._bytes += new * size_of(self.log[self._measured])
            self._measured += new
        return self._bytes

    def complete(self, answer: Any) -> None:
        """Log the whole *answer* and land."""
        if not self.over:
            self.log.append(answer)
            self.land(None)

    def land(self, error: BaseException | None) -> None:
        """End the flight: nothing more is received, and nobody can join."""
        with self.flights.lock:
            if self.over:
                return
            self.over, self.error = True, error
            self.flights.under_way.discard(self)
            if self.flights.joinable.get(self.key) is self:
                del self.flights.joinable[self.key]
        if error is None and self.landed is not None:
            try:
                self.landed(self)
            except Exception:
                log.exception("what wanted to know of a shared answer failed; its callers have it all the same")

    def leave(self) -> None:
        """Remove a caller; the last one to leave stops the upstream."""
        with self.flights.lock:
            self.seats -= 1
            if self.seats:
                return
            if self.over:
                self.error = None  # its traceback references frames that reference this flight
                return
            self.land(UpstreamLost("everybody had left"))
        self.stop()

    def wake(self) -> None:
        """Wake every waiter. Each has its own future or gate, so one that goes away does not affect the others."""
        raise NotImplementedError

    def ended(self) -> bool:
        """Whether it has ended; raises the error if it failed."""
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self.over

    def stop(self) -> None:
        raise NotImplementedError

    def time_left(self, deadline: float) -> float:
        """Seconds until *deadline*, or 0 if it has passed."""
        return max(0.0, deadline - self.flights.clock())
