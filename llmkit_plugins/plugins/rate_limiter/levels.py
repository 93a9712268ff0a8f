"""The limits as the algorithm sees them: levels, the plan for the levels a call is subject to, the phases they belong
to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, TypeVar

from llmkit_plugins.clock import Clock
from llmkit_plugins.plugins.rate_limiter.atomic import holding, lock_free
from llmkit_plugins.plugins.rate_limiter.keyed import Table
from llmkit_plugins.plugins.rate_limiter.limits import KEYS, METERS, Facts, Known, Limit, Meter
from llmkit_plugins.plugins.rate_limiter.rate import HALF_ULP, Rate
from llmkit_plugins.plugins.rate_limiter.turns import Line
from llmkit_plugins.plugins.rate_limiter.unrolled import (
    Admit,
    HasRoom,
    Take,
    unrolled,
    unrolled_admit,
    unrolled_room,
)

Keys = tuple[Hashable, ...]
F = TypeVar("F", bound=Callable[..., Any])

_FIRST_GUESS_SECONDS = 1.0


class Level:
    """One number to stay below: one meter of one limit, with its keys and what has happened at it."""

    __slots__ = (
        "depth",
        "fill",
        "held_seconds",
        "interval",
        "lines",
        "meter",
        "name",
        "refused",
        "table",
        "timed",
        "waited",
        "waited_seconds",
    )

    def __init__(self, name: str, meter: Meter, rate: Rate | None, permits: int, table: Table) -> None:
        self.name, self.meter, self.table = name, meter, table
        self.timed = rate is not None
        self.interval = rate.interval if rate else 1.0
        self.fill = rate.fill if rate else float(permits)
        self.depth = rate.depth if rate else permits + 0.5
        self.lines: dict[Hashable, Line] = {}
        self.held_seconds = _FIRST_GUESS_SECONDS
        self.refused = self.waited = 0
        self.waited_seconds = 0.0

    def base(self, now: float) -> float:
        """What states are counted from: now, and 0 for permits."""
        return now if self.timed else 0.0

    def excess(self, state: float, now: float) -> float:
        """Seconds until *state*, the charge included, is one that the level admits; 0.0 if it is."""
        ahead = state - self.base(now)
        return 0.0 if ahead <= self.depth else self._seconds(ahead)

    def shortage(self, key: Hashable, step: float, now: float) -> float:
        """Seconds until *step* more would be admitted for *key*; 0.0 if it would be now (decided as the unrolled form
        does)."""
        ahead = max(self.table.state(key) - self.base(now), 0.0)
        return 0.0 if ahead <= self.depth - step else self._seconds(ahead + step)

    def _seconds(self, ahead: float) -> float:
        """The wait until *ahead* has come down to what the level holds: for permits a guess, by how long they are
        held."""
        return max(ahead - self.fill if self.timed else self.held_seconds / self.fill, HALF_ULP)

    def charge(self, key: Hashable, step: float, now: float) -> None:
        """Charge *step* more, or give it back where it is negative. Those who wait are moved back, or up."""
        self.table.shift(key, step, self.base(now))
        line = self.lines.get(key)
        if line is not None and step > 0.0:
            line.debts += step

    def line(self, key: Hashable, now: float) -> Line:
        """Those who wait for *key*, without those whose turn has come though they have not looked yet."""
        line = self.lines.setdefault(key, Line())
        while (first := line.first()) is not None and not self.excess(first.promised, now):
            first.leave()
        return line


class Pass:
    """Some levels that are taken from together, all or none."""

    def __init__(self, levels: Sequence[Level], first: int, clock: Clock, lock: Any) -> None:
        self.levels = levels
        self._part = slice(first, first + len(levels))
        if levels:
            self._take: Take = _atomic(unrolled(levels, clock), lock)

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
    def all(self) -> Pass:
        """Every level."""
        return Pass(self.levels, 0, self._clock, self._lock)

    @cached_property
    def rates(self) -> Pass:
        """Those that come back by time."""
        return Pass(self.levels[self.permits :], self.permits, self._clock, self._lock)

    @cached_property
    def concurrency(self) -> Pass:
        """Those that come back when somebody ends."""
        return Pass(self.levels[: self.permits], 0, self._clock, self._lock)

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


class Phase:
    """The limits that are charged together, and the plans for those of them that a call is subject to."""

    def __init__(self, limits: Sequence[tuple[Limit, Sequence[Level]]], clock: Clock, lock: Any) -> None:
        self._keys = [limit.key() for limit, _ in limits]
        self._levels = [(number, level) for number, (_, levels) in enumerate(limits) for level in levels]
        self._levels.sort(key=lambda entry: entry[1].timed)
        self._clock, self._lock = clock, lock
        self._plans: dict[tuple[bool, ...], tuple[Plan, list[int]]] = {}
        self.full, _ = self._plan((True,) * len(limits))
        """The plan for a call that is subject to every limit."""
        self._plain = all(limit.plain for limit, _ in limits)
        self._per = [limits[number][0].per for number, _ in self._levels]
        plain_keys = self._plain and all(len(key) == 1 for key in self._per)
        self._plain_keys = _all_of([KEYS.index(key[0]) for key in self._per]) if plain_keys else None

    @cached_property
    def admit(self) -> Admit | None:
        """Takes from every level of the full plan at once, where the usual keys are all there is to know."""
        if not self._plain or self.full.permits:
            return None
        return _atomic(unrolled_admit(self.full.levels, self._clock, self._per), self._lock)

    @cached_property
    def has_room(self) -> HasRoom:
        """Whether there certainly is room at every level."""
        if not self._plain:
            return _not_certain
        return _atomic(unrolled_room(self.full.levels, self._clock, self._per), self._lock)

    def select(self, known: Known, metadata: Mapping[str, Any]) -> tuple[Plan, Keys]:
        """The plan for a call of which so much is *known*, and the key at each of its levels."""
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


def levels_of(limit: Limit, max_keys: int, lock: Any) -> list[Level]:
    """The levels of *limit*, one for each thing it counts."""
    rates = limit.rates()
    return [
        Level(limit.title(meter), meter, rates.get(meter), limit.concurrency or 0, Table(max_keys, lock))
        for meter in METERS
        if getattr(limit, meter) is not None
    ]


def shown(key: Hashable) -> str:
    """*key* as errors and logs name it."""
    return "/".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _not_certain(*_: Any) -> bool:
    """Whether there is room cannot be told by the usual keys."""
    return False


def _atomic(function: F, lock: Any) -> F:
    return function if lock_free() else holding(lock, function)


def _all_of(places: Sequence[int]) -> Callable[[Known], Keys]:
    """A function that says what is known at these *places*."""
    if not places:
        return lambda _: ()
    get = itemgetter(*places)
    return get if len(places) > 1 else lambda known: (get(known),)
