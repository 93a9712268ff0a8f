"""What is wanted of counters that processes share, and what became of it: whatever the store is."""

from __future__ import annotations

from typing import NamedTuple


class Claim(NamedTuple):
    """What is wanted of one counter: so much of a rate or, where it names a *holder*, one of so many permits."""

    key: str
    step: float
    """Of a rate: how many seconds it moves ahead (back, where that is negative). Of a permit: the seconds of its
    lease."""
    most: float
    """Of a rate: how many seconds it may be ahead of the clock. Of permits: how many there are."""
    wait: float
    """Of a rate: from how many seconds ahead the wait is counted. Of a permit: how long it is likely to be."""
    holder: str = ""
    """Who has the permit, by a name of his own."""


class Reply(NamedTuple):
    """What became of some claims."""

    taken: bool
    short: int | None = None
    """The number of the claim that there is not enough for yet. None: there is, or the store did not answer."""
    seconds: float = 0.0
    """How long until there will be. Where rates were taken in advance, permits were not: they are asked for then."""


UNREACHABLE = Reply(taken=False)
