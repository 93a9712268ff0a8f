"""Which levels a call is subject to, and how it takes from them: from all, or from none."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from llmkit_plugins.clock import Clock
from llmkit_plugins.plugins.rate_limiter.atomic import atomic
from llmkit_plugins.plugins.rate_limiter.levels import Level
from llmkit_plugins.plugins.rate_limiter.unrolled import Take, unrolled

Keys = tuple[Hashable, ...]
"""Whom a call is counted for, at each level of its plan."""


class AllOrNone:
    """Some levels that are taken from together."""

    def __init__(self, levels: Sequence[Level], first: int, clock: Clock, lock: Any) -> None:
        self.levels = levels
        self._part = slice(first, first + len(levels))
        if levels:
            self._take: Take = atomic(unrolled(levels, clock), lock)

    def take(self, ticket: Any, patience: float = 0.0) -> tuple[float, ...] | None:
        """The states after charging the *ticket*, or None where a level would admit it only after more than
        *patience*."""
        part = self._part
        while True:
            states = self._take(ticket, patience, *ticket.keys[part], *ticket.charged[part])
            if states or states is None:
                return states
            ticket.keys = ticket.plan.adopt(ticket.keys)

    def of(self, ticket: Any, states: tuple[float, ...]) -> Iterator[tuple[Level, Hashable, float, float]]:
        """Each level with its key, its charge and, of *states*, its state."""
        part = self._part
        return zip(self.levels, ticket.keys[part], ticket.charged[part], states, strict=True)


class Plan:
    """The levels that one call is subject to, concurrency first: a permit comes back, a token does not."""

    def __init__(self, levels: Sequence[Level], clock: Clock, lock: Any) -> None:
        self.levels, self._clock, self._lock = levels, clock, lock
        self.permits = sum(not level.timed for level in levels)
        self.metered = any(level.meter not in ("concurrency", "requests") for level in levels)
        self.priced = any(level.meter == "cost" for level in levels)
        self.ones = tuple(level.interval for level in levels)

    @cached_property
    def all(self) -> AllOrNone:
        """Every level."""
        return AllOrNone(self.levels, 0, self._clock, self._lock)

    @cached_property
    def rates(self) -> AllOrNone:
        """Those that come back by time."""
        return AllOrNone(self.levels[self.permits :], self.permits, self._clock, self._lock)

    @cached_property
    def concurrency(self) -> AllOrNone:
        """Those that come back when somebody ends."""
        return AllOrNone(self.levels[: self.permits], 0, self._clock, self._lock)

    def expected(self, amounts: Mapping[str, float]) -> Sequence[float]:
        """What expected *amounts* are in the unit of each level, and no more than it can ever hold."""
        if not self.metered:
            return self.ones
        return [min(level.interval * amounts.get(level.meter, 1.0), level.fill) for level in self.levels]

    def adopt(self, keys: Keys) -> Keys:
        """See to it that *keys* are known; returns those under which they are counted."""
        now = self._clock()
        return tuple([level.table.adopt(key, level.base(now)) for level, key in zip(self.levels, keys, strict=True)])

    def worst(self, keys: Sequence[Hashable], steps: Sequence[float], now: float) -> tuple[int, float] | None:
        """Which level would refuse for how long; of several the longest; None if none would."""
        longest, which = 0.0, 0
        for number, level in enumerate(self.levels):
            seconds = level.shortage(keys[number], steps[number], now)
            if seconds > longest:
                longest, which = seconds, number
        return (which, longest) if longest else None
