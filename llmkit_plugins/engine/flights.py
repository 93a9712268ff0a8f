"""An upstream for many callers, and an append-only log of what it said.

Under asyncio it is a task of its own. In threads whoever needs the next chunk pulls it, so that nobody costs a thread.
Both run in a copy of the context of the caller who started them.
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
"""The keys of the upstreams that this very code runs in."""
Key = tuple[Hashable, ...]
"""What is asked, streamed or not, and the event loop."""
Upstream = TypeVar("Upstream")
Source = Callable[[Any], Upstream]
"""Opens the upstream of the flight it is given, which runs until the flight's deadline. In a thread it returns the
chunks to be pulled, or the whole answer; under asyncio it tells the flight the chunks it hears, and returns the whole
answer."""
Waiter = TypeVar("Waiter")


class Flight(Generic[Waiter]):
    """The upstream that *call* started, and everything it has said so far."""

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
        """Callers who have a place, and who ever had one."""
        self._bytes = self._measured = 0
        self.over = False
        self.error: BaseException | None = None

    def board(self, call: Call) -> None:  # noqa: ARG002
        """One caller more."""
        self.seats += 1
        self.boarded += 1

    def admits(self, share: Share) -> bool:
        """Whether one more may join, by its bounds."""
        if log := self.log:
            if share.max_chunks is not None and len(log) > share.max_chunks:
                return False
            if share.max_bytes is not None and self.held_bytes() > share.max_bytes:
                return False
        return share.max_age_seconds is None or self.flights.clock() - self.born <= share.max_age_seconds

    def held_bytes(self) -> int:
        """Bytes of its chunks, by estimate: of the new ones since it was last asked, every 16th stands for the next."""
        while (new := min(SAMPLED, len(self.log) - self._measured)) > 0:
            self._bytes += new * size_of(self.log[self._measured])
            self._measured += new
        return self._bytes

    def complete(self, answer: Any) -> None:
        """The whole *answer* is there."""
        if not self.over:
            self.log.append(answer)
            self.land(None)

    def land(self, error: BaseException | None) -> None:
        """Nothing more will come, and nobody joins any more."""
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
        """One caller less; the last one to leave stops the upstream."""
        with self.flights.lock:
            self.seats -= 1
            if self.seats:
                return
            if self.over:
                self.error = None  # its traceback holds frames that hold this flight
                return
            self.land(UpstreamLost("everybody had left"))
        self.stop()

    def wake(self) -> None:
        """Tell each waiter; it has a future or a gate of its own, so one that goes away takes nobody along."""
        raise NotImplementedError

    def ended(self) -> bool:
        """Whether it ended well; raises what it ended with."""
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self.over

    def stop(self) -> None:
        raise NotImplementedError

    def time_left(self, deadline: float) -> float:
        """Seconds until *deadline*; 0 from then on."""
        return max(0.0, deadline - self.flights.clock())
