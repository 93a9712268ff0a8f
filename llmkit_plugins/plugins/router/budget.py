"""How many failovers there may be, so that an outage is not multiplied."""

from __future__ import annotations

_WINDOW_SECONDS = 10.0


class FailoverBudget:
    """At most *share* of the calls of late, and *floor* besides, may be tried again elsewhere (finagle's retry budget).

    Of late is the present window of ten seconds and the one before. There is no lock: threads that count at once may
    lose a count, never more.
    """

    __slots__ = ("_calls", "_ends", "_floor", "_past_calls", "_past_spent", "_share", "_spent")

    def __init__(self, share: float, floor: int, now: float) -> None:
        self._share, self._floor = share, floor
        self._ends = now + _WINDOW_SECONDS
        self._calls = self._spent = self._past_calls = self._past_spent = 0

    def called(self, now: float) -> None:
        """A call was made."""
        if now >= self._ends:
            self._turn(now)
        self._calls += 1

    def spend(self, now: float) -> bool:
        """Whether there may be one more failover; if so, it is counted."""
        if now >= self._ends:
            self._turn(now)
        if self._spent + self._past_spent + 1 > self._share * (self._calls + self._past_calls) + self._floor:
            return False
        self._spent += 1
        return True

    def _turn(self, now: float) -> None:
        recent = now < self._ends + _WINDOW_SECONDS
        self._past_calls, self._past_spent = (self._calls, self._spent) if recent else (0, 0)
        self._calls = self._spent = 0
        self._ends = now + _WINDOW_SECONDS
