"""When to try a target that is not the best, so that one that has recovered is found again."""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from typing import NamedTuple

LOOK_SECONDS = 1.0
"""How often to look for a target to try."""

_SOON_SECONDS = 10.0
_LATEST_SECONDS = 30.0
_AS_GOOD = 1.25
_LARGEST_ALLOWANCE = 20.0


class Candidate(NamedTuple):
    """A target that is not the best now."""

    place: int
    hope: float
    """The score it would have if it were back to its long-run performance, relative to that of the best."""
    slower: float
    """How many times slower it is now than that."""
    failing: bool
    """Whether the last attempt there failed."""
    idle_seconds: float
    """Since the last attempt there began."""


class Exploration:
    """Which target to try instead of the best, now and then.

    One that used to be as good is tried after ten to thirty seconds without an attempt: sooner the less it has slowed,
    late if the last attempt failed. The others are tried in turn, and each costs its score: in total, *share* of the
    cost of the calls that go to the best. So a target that is ten times as slow or expensive is tried a tenth as
    often.
    """

    __slots__ = ("_allowance", "_look_at", "_share")

    def __init__(self, share: float, now: float) -> None:
        self._share, self._allowance = share, 0.0
        self._look_at = now if share else float("inf")

    def due(self, now: float) -> bool:
        """Count a call; whether it is time to look for a target to try."""
        self._allowance += self._share
        return now >= self._look_at

    def choose(self, candidates: Iterable[Candidate], now: float) -> int | None:
        """The place of the target to try now, or None."""
        self._look_at = now + LOOK_SECONDS
        self._allowance = allowance = min(self._allowance, _LARGEST_ALLOWANCE)
        fallen, others = [], []
        for one in candidates:
            if one.hope <= _AS_GOOD:
                fallen.append((one.idle_seconds - _patience(one), one.place))
            elif one.hope <= allowance:
                others.append((one.idle_seconds / one.hope, one.hope, one.place))
        overdue, place = max(fallen, default=(-1.0, -1))
        if overdue >= 0.0:
            return place
        if not others:
            return None
        _, price, place = max(others)
        self._allowance -= price
        return place


def _patience(one: Candidate) -> float:
    soon = _SOON_SECONDS * (1.0 + log(max(one.slower, 1.0)))
    return _LATEST_SECONDS if one.failing else min(soon, _LATEST_SECONDS)
