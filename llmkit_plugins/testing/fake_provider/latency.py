"""How long things take: a number of seconds, or a distribution to draw it from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Protocol, runtime_checkable

from llmkit_plugins.errors import ConfigError
from llmkit_plugins.testing.fake_provider.checks import not_negative


@runtime_checkable
class Latency(Protocol):
    """Anything that draws a duration: ``sample(random)`` returns seconds, 0 or more, using no other source of
    randomness."""

    def sample(self, random: Random, /) -> float:
        """Seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same number of seconds, as a plain number is."""

    seconds: float

    def __post_init__(self) -> None:
        not_negative("seconds", self.seconds)

    def sample(self, _random: Random, /) -> float:
        """Seconds."""
        return self.seconds


@dataclass(frozen=True, slots=True)
class Uniform:
    """Any duration between two, all equally likely."""

    low_seconds: float
    high_seconds: float

    def __post_init__(self) -> None:
        not_negative("low_seconds", self.low_seconds)
        not_negative("high_seconds", self.high_seconds)
        if self.high_seconds < self.low_seconds:
            raise ConfigError(
                f"{self.high_seconds} is below low_seconds", key="high_seconds", right="low_seconds or more"
            )

    def sample(self, random: Random, /) -> float:
        """Seconds."""
        return random.uniform(self.low_seconds, self.high_seconds)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Half of them below the median and a long tail above: what the latency of real providers looks like.

    *sigma* is the standard deviation of the logarithm: with 0.5, one in six takes more than 1.65 medians, with 1.0 more
    than 2.7.
    """

    median_seconds: float
    sigma: float

    def __post_init__(self) -> None:
        not_negative("median_seconds", self.median_seconds)
        not_negative("sigma", self.sigma)

    def sample(self, random: Random, /) -> float:
        """Seconds."""
        return self.median_seconds * math.exp(random.gauss(0.0, self.sigma))


def latency_of(key: str, value: object) -> Latency:
    """*value* as a distribution. Raises ``ConfigError`` if it is neither one nor a number of at least 0."""
    if isinstance(value, Latency):
        return value
    return Constant(not_negative(key, value))
