"""The limits as the algorithm sees them: one level for each meter of a limit."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from llmkit_plugins.plugins.rate_limiter.keyed import Table
from llmkit_plugins.plugins.rate_limiter.limits import METERS, Limit, Meter
from llmkit_plugins.plugins.rate_limiter.rate import HALF_ULP, Rate
from llmkit_plugins.plugins.rate_limiter.turns import Line

_FIRST_GUESS_SECONDS = 1.0


class Level:
    """One meter of one limit, with its keys and statistics."""

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
        """The origin of states: *now* for rates, 0 for permits."""
        return now if self.timed else 0.0

    def excess(self, state: float, now: float) -> float:
        """Seconds until the level admits *state*, which includes the charge; 0.0 if it does now."""
        ahead = state - self.base(now)
        return 0.0 if ahead <= self.depth else self._seconds(ahead)

    def shortage(self, key: Hashable, step: float, now: float) -> float:
        """Seconds until another *step* would be admitted for *key*; 0.0 if it would be now (decided as in the unrolled
        code)."""
        ahead = max(self.table.state(key) - self.base(now), 0.0)
        return 0.0 if ahead <= self.depth - step else self._seconds(ahead + step)

    def _seconds(self, ahead: float) -> float:
        """The wait until *ahead* is down to what the level holds; for permits a guess from how long they are held."""
        return max(ahead - self.fill if self.timed else self.held_seconds / self.fill, HALF_ULP)

    def charge(self, key: Hashable, step: float, now: float) -> None:
        """Charge *step*, or give it back if negative. Waiters move back or up accordingly."""
        self.table.shift(key, step, self.base(now))
        line = self.lines.get(key)
        if line is not None and step > 0.0:
            line.debts += step

    def line(self, key: Hashable, now: float) -> Line:
        """The line for *key*, after removing waiters whose turn has come but who have not looked yet."""
        line = self.lines.setdefault(key, Line())
        while (first := line.first()) is not None and not self.excess(first.promised, now):
            first.leave()
        return line


def levels_of(limit: Limit, max_keys: int, lock: Any) -> list[Level]:
    """The levels of *limit*, one for each thing it counts."""
    rates = limit.rates()
    return [
        Level(limit.title(meter), meter, rates.get(meter), limit.concurrency or 0, Table(max_keys, lock))
        for meter in METERS
        if getattr(limit, meter) is not None
    ]


def shown(key: Hashable) -> str:
    """*key* as shown in errors and logs."""
    return "/".join(map(str, key)) if isinstance(key, tuple) else str(key)
