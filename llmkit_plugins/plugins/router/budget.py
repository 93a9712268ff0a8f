"""A limit on failovers, so that they do not amplify an outage."""

from __future__ import annotations

_WINDOW_SECONDS = 10.0


class FailoverBudget:
    """At most *share* of recent calls, plus *floor*, may be tried again elsewhere (Finagle's retry budget).

    Recent means the current window of ten seconds and the one before. There is no lock: threads that count concurrently
    may lose a count, never more.
    """

    __slots__ = ("_calls", "_ends", "_floor", "_past_calls", "_past_spent", "_share", "_spent")

    def __init__(self, share: float, floor: int, now: float) -> None:
        self._share, self._floor = share, floor
        self._ends = now + _WINDOW_SECONDS
        self._calls = self._spent = self._past_calls = self._past_spent = 0

    def called(self, now: float) -> None:
        """Count a call."""
        if now >= self._ends:
            self._turn(now)
        self._calls += 1

    def spend(self, now: float) -> bool:
        """Whether one more failover is allowed; if so, it is counted."""
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
