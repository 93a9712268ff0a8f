"""A caller's seat at a shared upstream, with its own cursor in the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from llmkit_plugins.call import Call, Response
from llmkit_plugins.engine.flights import Flight
from llmkit_plugins.engine.task_flights import TaskFlight
from llmkit_plugins.engine.thread_flights import ThreadFlight

AnyFlight = TypeVar("AnyFlight", bound=Flight[Any])
Chunk = TypeVar("Chunk")
Copy = Callable[[Any], Any]
"""Copies a chunk for one caller."""


def same(chunk: Chunk) -> Chunk:
    """*chunk* itself, for backends that need no copies."""
    return chunk


class Seat(Generic[AnyFlight]):
    """One caller's seat at a flight. Its holder must leave the flight exactly once."""

    __slots__ = ("at", "call", "copy", "flight", "log")

    def __init__(self, flight: AnyFlight, call: Call, copy: Copy) -> None:
        self.flight, self.call, self.copy, self.at = flight, call, copy, 0
        self.log = flight.log

    def answered(self) -> bool:
        """Whether this caller has received the complete answer, including the provider's finish reason."""
        attempts = self.flight.call.attempts
        return self.at == len(self.log) > 0 and bool(attempts) and attempts[-1].finish_reason is not None

    def response(self, raw: Any) -> Response:
        """The response to this caller's call."""
        leader = self.flight.call
        answered_by = leader.attempts[-1] if leader.attempts else None
        return Response(raw, answered_by, None if leader is self.call else leader.id)

    def _own(self) -> Any:
        """The whole answer, copied unless nobody else has boarded, can still board, or keeps it."""
        flight = self.flight
        alone = flight.over and flight.boarded == 1 and flight.landed is None
        return self.log[0] if alone else self.copy(self.log[0])


class ThreadSeat(Seat[ThreadFlight]):
    """One caller's seat in a thread."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        log, more, copy, deadline = self.log, self.flight.more, self.copy, self.call.deadline
        while (at := self.at) < len(log) or more(at, deadline):
            self.at = at + 1
            yield log[at] if copy is same else copy(log[at])

    def whole(self) -> Any:
        """The answer of an upstream that is not streamed."""
        while not self.log:
            self.flight.more(0, self.call.deadline)
        return self._own()


class TaskSeat(Seat[TaskFlight]):
    """One caller's seat under an event loop. ``astream`` reads the log directly and inlines ``news``: compared with the
    cost of waking the caller, an iterator would add a third and a method a twentieth."""

    __slots__ = ()

    async def whole(self) -> Any:
        """The answer of an upstream that is not streamed."""
        log, flight, deadline = self.log, self.flight, self.call.deadline
        while not log:
            if flight.over:
                flight.ended()
            await (flight.news() if deadline is None else flight.news_before(deadline))
        return self._own()
