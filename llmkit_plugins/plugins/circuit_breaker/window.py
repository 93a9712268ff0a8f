"""Counts of the recent past, and what rate a few calls really prove."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from math import sqrt
from typing import NamedTuple

BUCKETS = 10
_PAST = BUCKETS - 1


class Counts(NamedTuple):
    """The counts of a window."""

    calls: int
    failures: int
    slow: int


class Window:
    """Calls, failures and slow calls of the last *seconds*, in ten buckets, so that a tenth is forgotten at a time.

    The current bucket is three plain attributes: to count, check ``ends``, turn if due, and add. There is no lock:
    threads that count concurrently may lose a count, never more.
    """

    __slots__ = ("_at", "_bucket_seconds", "_past", "calls", "ends", "failures", "slow")

    def __init__(self, seconds: float, now: float) -> None:
        self._bucket_seconds = seconds / BUCKETS
        self.ends = now + self._bucket_seconds
        """When the current bucket ends."""
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.calls = self.failures = self.slow = self._at = 0
        self._past = array("I", [0]) * (3 * _PAST)

    def add(self, now: float, *, calls: int = 0, failures: int = 0, slow: int = 0) -> None:
        """Count at the time *now*."""
        if now >= self.ends:
            self.turn(now)
        self.calls += calls
        self.failures += failures
        self.slow += slow

    def counts(self, now: float) -> Counts:
        """The counts of the window that ends *now*."""
        *_, whole = self.stretches(now)
        return whole

    def stretches(self, now: float) -> Iterator[Counts]:
        """The counts of the current bucket, of this and the last, and so on up to the whole window."""
        if now >= self.ends:
            self.turn(now)
        calls, failures, slow = self.calls, self.failures, self.slow
        yield Counts(calls, failures, slow)
        for back in range(1, BUCKETS):
            at = 3 * ((self._at - back) % _PAST)
            calls += self._past[at]
            failures += self._past[at + 1]
            slow += self._past[at + 2]
            yield Counts(calls, failures, slow)

    def turn(self, now: float) -> None:
        """Begin the bucket that *now* belongs to."""
        steps = int((now - self.ends) / self._bucket_seconds) + 1
        if steps > _PAST:
            self.clear()
            self.ends = now + self._bucket_seconds
            return
        for _ in range(steps):
            at = self._at
            self._past[3 * at], self._past[3 * at + 1], self._past[3 * at + 2] = self.calls, self.failures, self.slow
            self.calls = self.failures = self.slow = 0
            self._at = (at + 1) % _PAST
        self.ends += steps * self._bucket_seconds


def wilson_lower_bound(hits: int, calls: int, z: float) -> float:
    """The rate that *hits* out of *calls* prove with *z* standard deviations (Wilson 1927). 0 without calls."""
    if not calls:
        return 0.0
    rate, spread = hits / calls, z * z / calls
    return (rate + spread / 2 - z * sqrt((rate * (1 - rate) + spread / 4) / calls)) / (1 + spread)
