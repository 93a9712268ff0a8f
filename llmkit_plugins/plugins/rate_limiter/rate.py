"""A rate: an amount per period, and how much at once after a rest."""

from __future__ import annotations

import re
import sys
from typing import Any

from llmkit_plugins.errors import ConfigError

HALF_ULP = 2.0**-23
"""The rounding error of one addition to a clock reading, in seconds: half the spacing of floats at Unix time."""

FULL = float("-inf")
"""The state of an untouched bucket."""

_PERIODS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_WORDS = {"sec": "s", "second": "s", "m": "min", "minute": "min", "hour": "h", "day": "d"}
_RATE = re.compile(r"\s*(?P<amount>[\d_.]+)\s*(?P<unit>[A-Z]{3}|\$)?\s*/\s*(?P<count>\d+)?\s*(?P<period>[a-z]+)\s*")
_RIGHT = 'a number per s, min, h or day, as in "100/s", "90_000/min" or "500/10s"'
_RIGHT_MONEY = 'US dollars per s, min, h or day, as in "5 USD/day"'


class Rate:
    """*amount* per *per* seconds, up to *burst* at once; without *burst*, one period's worth (at least one).

    It derives what GCRA needs, in seconds: ``interval`` (the time of one token), ``fill`` (from empty to full), and
    ``depth``, how far ahead of the clock the state may be: ``fill`` plus the rounding errors that the additions of a
    whole burst can make, at most half an interval. Without these, the textbook comparison refuses the last token of
    every second burst. Exact while burst x amount / per stays below 4 million on a clock of Unix time, or 2 billion on
    one that counts from boot. ``most`` is the largest cost.
    """

    __slots__ = ("amount", "burst", "depth", "fill", "interval", "most", "per")

    def __init__(self, amount: float, burst: float | None = None, per: float = 1.0) -> None:
        self.amount = positive("rate", amount)
        self.per = positive("per", per)
        self.burst = max(1.0, self.amount) if burst is None else positive("burst", burst)
        if per == float("inf"):
            raise ConfigError("inf is not valid", key="per", right="a finite number of seconds")
        self.most = min(self.burst, sys.float_info.max)
        self.interval = self.per / self.amount
        self.fill = self.burst * self.interval if self.interval else float("inf")
        self.depth = self.fill + min(self.interval / 2, HALF_ULP * (self.burst + 4.0))

    def __repr__(self) -> str:
        return f"Rate({self.amount:g}, burst={self.burst:g}, per={self.per:g})"

    @classmethod
    def parse(cls, text: str, key: str, burst: float | None = None) -> Rate:
        """Parse *text*: ``100/s``, ``90_000/min``, ``500/10s``, and for the *key* ``cost`` ``5 USD/day``.

        Raises ``ConfigError`` that names *key*.
        """
        money = key == "cost"
        found = _RATE.fullmatch(text) if isinstance(text, str) else None
        amount = _number(found["amount"]) if found else None
        seconds = _seconds(found["period"], found["count"]) if found else None
        if found is None or amount is None or seconds is None or found["unit"] not in _units(money=money):
            raise ConfigError(f"{text!r} is not a rate", key=key, right=_RIGHT_MONEY if money else _RIGHT)
        if burst is None and money:
            burst = amount  # a budget of half a dollar must not round up to a dollar
        return cls(amount, burst, seconds)


def positive(key: str, value: Any) -> float:
    """*value* as a number above 0. Raises ``ConfigError`` that names *key*."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"{value!r} is not valid", key=key, right="a number above 0")
    return float(value)


def _units(*, money: bool) -> tuple[str | None, ...]:
    return (None, "USD", "$") if money else (None,)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number > 0 else None


def _seconds(period: str, count: str | None) -> float | None:
    word = period if period in _PERIODS else period.removesuffix("s")
    unit = _PERIODS.get(_WORDS.get(word, word))
    return None if unit is None else (unit * int(count or 1) or None)
