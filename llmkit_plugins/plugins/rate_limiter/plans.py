"""Which levels apply to a call, and how it takes from them: from all or from none."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from llmkit_plugins.clock import Clock
from llmkit_plugins.plugins.rate_limiter.atomic import atomic
from llmkit_plugins.plugins.rate_limiter.levels import Level
from llmkit_plugins.plugins.rate_limiter.unrolled import Take, unrolled

Keys = tuple[Hashable, ...]
"""The key a call is counted under, at each level of its plan."""


class AllOrNone:
    """Levels that are taken from together."""

    def __init__(self, levels: Sequence[Level], first: int, clock: Clock, lock: Any) -> None:
        self.levels = levels
        self._part = slice(first, first + len(levels))
        if levels:
            self._take: Take = atomic(unrolled(levels, clock), lock)

    def take(self, ticket: Any, patience: float = 0.0) -> tuple[float, ...] | None:
        """Charge *ticket* and return the states; None if a level would not admit it within *patience*."""
        part = self._part
        while True:
            states = self._take(ticket, patience, *ticket.keys[part], *ticket.charged[part])
            if states or states is None:
                return states
            ticket.keys = ticket.plan.adopt(ticket.keys)

    def of(self, ticket: Any, states: tuple[float, ...]) -> Iterator[tuple[Level, Hashable, float, float]]:
        """Each level with its key, its charge and its state from *states*."""
        part = self._part
        return zip(self.levels, ticket.keys[part], ticket.charged[part], states, strict=True)


class Plan:
    """The levels that apply to a call, concurrency first: a permit comes back, a token does not."""

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
        """The levels that are replenished over time."""
        return AllOrNone(self.levels[self.permits :], self.permits, self._clock, self._lock)

    @cached_property
    def concurrency(self) -> AllOrNone:
        """The levels whose permits come back when a call ends."""
        return AllOrNone(self.levels[: self.permits], 0, self._clock, self._lock)

    def expected(self, amounts: Mapping[str, float]) -> Sequence[float]:
        """Expected *amounts* in the unit of each level, capped at what it can hold."""
        if not self.metered:
            return self.ones
        return [min(level.interval * amounts.get(level.meter, 1.0), level.fill) for level in self.levels]

    def adopt(self, keys: Keys) -> Keys:
        """Make sure that *keys* are in the tables; returns the keys they are counted under."""
        now = self._clock()
        return tuple([level.table.adopt(key, level.base(now)) for level, key in zip(self.levels, keys, strict=True)])

    def worst(self, keys: Sequence[Hashable], steps: Sequence[float], now: float) -> tuple[int, float] | None:
        """The number and wait of the level that would refuse for longest; None if none would."""
        longest, which = 0.0, 0
        for number, level in enumerate(self.levels):
            seconds = level.shortage(keys[number], steps[number], now)
            if seconds > longest:
                longest, which = seconds, number
        return (which, longest) if longest else None
