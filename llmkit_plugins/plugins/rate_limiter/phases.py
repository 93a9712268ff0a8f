"""When limits are charged, per caller or per attempt, and which of them apply to a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

from llmkit_plugins.clock import Clock
from llmkit_plugins.plugins.rate_limiter.atomic import atomic
from llmkit_plugins.plugins.rate_limiter.levels import Level
from llmkit_plugins.plugins.rate_limiter.limits import KEYS, Facts, Known, Limit
from llmkit_plugins.plugins.rate_limiter.plans import Keys, Plan
from llmkit_plugins.plugins.rate_limiter.unrolled import Admit, HasRoom, unrolled_admit, unrolled_room


class Phase:
    """Limits that are charged together, and plans for the subsets of them that apply to calls."""

    def __init__(self, limits: Sequence[tuple[Limit, Sequence[Level]]], clock: Clock, lock: Any) -> None:
        self._keys = [limit.key() for limit, _ in limits]
        self._levels = [(number, level) for number, (_, levels) in enumerate(limits) for level in levels]
        self._levels.sort(key=lambda entry: entry[1].timed)
        self._clock, self._lock = clock, lock
        self._plans: dict[tuple[bool, ...], tuple[Plan, list[int]]] = {}
        self.full, _ = self._plan((True,) * len(limits))
        """The plan for a call to which every limit applies."""
        self._plain = all(limit.plain for limit, _ in limits)
        self._per = [limits[number][0].per for number, _ in self._levels]
        plain_keys = self._plain and all(len(key) == 1 for key in self._per)
        self._plain_keys = _all_of([KEYS.index(key[0]) for key in self._per]) if plain_keys else None

    @cached_property
    def admit(self) -> Admit | None:
        """Takes from every level of the full plan at once; None unless :data:`KEYS` are enough to decide."""
        if not self._plain or self.full.permits:
            return None
        return atomic(unrolled_admit(self.full.levels, self._clock, self._per), self._lock)

    @cached_property
    def has_room(self) -> HasRoom:
        """Tells whether there certainly is room at every level."""
        if not self._plain:
            return _not_certain
        return atomic(unrolled_room(self.full.levels, self._clock, self._per), self._lock)

    def select(self, known: Known, metadata: Mapping[str, Any]) -> tuple[Plan, Keys]:
        """The plan for a call with these *known* facts, and its key at each level."""
        if self._plain_keys is not None:
            plain = self._plain_keys(known)
            if None not in plain:
                return self.full, plain
        facts = Facts(*known, metadata)
        keys = [key(facts) for key in self._keys]
        chosen = tuple([key is not None for key in keys])
        found = self._plans.get(chosen)
        if found is None:
            found = self._plans[chosen] = self._plan(chosen)
        plan, order = found
        return plan, tuple([keys[number] for number in order])

    def _plan(self, chosen: tuple[bool, ...]) -> tuple[Plan, list[int]]:
        levels = [(number, level) for number, level in self._levels if chosen[number]]
        return Plan([level for _, level in levels], self._clock, self._lock), [number for number, _ in levels]


def _not_certain(*_: Any) -> bool:
    """False: :data:`KEYS` alone cannot tell whether there is room."""
    return False


def _all_of(places: Sequence[int]) -> Callable[[Known], Keys]:
    """A function that picks the known facts at *places*."""
    if not places:
        return lambda _: ()
    get = itemgetter(*places)
    return get if len(places) > 1 else lambda known: (get(known),)
