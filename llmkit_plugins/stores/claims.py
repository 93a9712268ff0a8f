"""Claims on counters that processes share, and the replies to them, for any store."""

from __future__ import annotations

from typing import NamedTuple


class Claim(NamedTuple):
    """A claim on one counter: an amount of a rate or, if it names a *holder*, a permit."""

    key: str
    step: float
    """For a rate: how many seconds to move it ahead (back, if negative). For a permit: the seconds of its lease."""
    most: float
    """For a rate: how many seconds it may be ahead of the clock. For permits: how many there are."""
    wait: float
    """For a rate: the seconds ahead from which the wait is counted. For a permit: the likely wait."""
    holder: str = ""
    """A unique name for whoever holds the permit."""


class Reply(NamedTuple):
    """The result of a set of claims."""

    taken: bool
    short: int | None = None
    """The index of the claim there is not yet enough for. None: there is enough, or the store did not answer."""
    seconds: float = 0.0
    """Seconds until there will be. If rates were taken in advance, permits were not: ask for them after this."""


UNREACHABLE = Reply(taken=False)
