"""The goals of one call: the router's settings, unless the call's own metadata overrides them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from llmkit_plugins.call import Target
from llmkit_plugins.conventions import ROUTE_WISHES
from llmkit_plugins.plugins.router.config import OptimizeFor, RouterConfig, Weights

log = logging.getLogger(__name__)

PRESETS: Mapping[str, Weights] = {
    "latency": Weights(latency=1.0, cost=0.0, reliability=1.0),
    "cost": Weights(latency=0.0, cost=1.0, reliability=10.0),
    "reliability": Weights(latency=0.2, cost=0.0, reliability=300.0),
}


@dataclass(frozen=True, slots=True)
class Goals:
    """What a call is to be routed by."""

    mode: OptimizeFor
    latency: float
    cost: float
    reliability: float
    """The exponents of seconds, USD and the chance of an answer."""
    max_latency_seconds: float | None = None
    max_cost_usd: float | None = None
    min_success_rate: float | None = None
    only: frozenset[str] | None = None
    """Names of the targets to consider; None: all."""
    tags: frozenset[str] = frozenset()
    """Tags that a target's ``metadata["tags"]`` must all contain."""
    limited: bool = field(init=False)
    """Whether there are objectives."""

    def __post_init__(self) -> None:
        limits = (self.max_latency_seconds, self.max_cost_usd, self.min_success_rate)
        object.__setattr__(self, "limited", limits != (None, None, None))

    @property
    def selective(self) -> bool:
        """Whether some targets may be excluded."""
        return self.only is not None or bool(self.tags)

    def admits(self, target: Target) -> bool:
        """Whether *target* may be considered."""
        if self.only is not None and target.name not in self.only:
            return False
        return not self.tags or self.tags <= _names(target.metadata.get("tags") or ())


class Aims:
    """The goals of calls: those of *config*, unless a call says otherwise.

    ``metadata={"route": {"optimize_for": "latency", "max_cost_usd": 0.01, "only": ["fast"], "tags": ["eu"]}}``. A value
    that makes no sense is ignored, and logged the first time.
    """

    def __init__(self, config: RouterConfig) -> None:
        self._weights = {**PRESETS, "balanced": config.weights}
        self._asked = config.optimize_for
        self.usual = self._goals(
            config.optimize_for,
            max_latency_seconds=config.max_latency_seconds,
            max_cost_usd=config.max_cost_usd,
            min_success_rate=config.min_success_rate,
        )
        self._logged: set[str] = set()

    def of(self, metadata: Mapping[str, Any]) -> Goals:
        """The goals of a call with this *metadata*."""
        said = metadata.get(ROUTE_WISHES)
        if said is None:
            return self.usual
        if not isinstance(said, Mapping):
            self._ignore(ROUTE_WISHES)
            return self.usual
        given = {name: value for name, value in said.items() if value is not None and self._makes_sense(name, value)}
        mode = given.pop("optimize_for", self._asked)
        for name in ("only", "tags"):
            if name in given:
                given[name] = _names(given[name])
        usual = {
            name: getattr(self.usual, name) for name in ("max_latency_seconds", "max_cost_usd", "min_success_rate")
        }
        return self._goals(mode, **{**usual, **given})

    def _goals(self, mode: OptimizeFor | None, **rest: Any) -> Goals:
        goals = Goals(mode or "balanced", 0.0, 0.0, 0.0, **rest)
        if mode is None and goals.limited:
            goals = replace(goals, mode="cost")
        weights = self._weights[goals.mode]
        return replace(goals, latency=weights.latency, cost=weights.cost, reliability=weights.reliability)

    def _makes_sense(self, name: Any, value: Any) -> bool:
        check = _CHECKS.get(name)
        if check is not None and check(value):
            return True
        self._ignore(f"{ROUTE_WISHES}.{name}")
        return False

    def _ignore(self, what: str) -> None:
        if what not in self._logged and len(self._logged) < 100:
            self._logged.add(what)
            log.warning("metadata %r of a call makes no sense to the router and is ignored", what)


def _names(told: str | Iterable[str]) -> frozenset[str]:
    """One name or several."""
    return frozenset([told] if isinstance(told, str) else told)


def _number(above: float, below: float = sys.float_info.max) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and above < value < below

    return check


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, Iterable) and all(isinstance(text, str) for text in value))


_CHECKS: Mapping[Any, Callable[[Any], bool]] = {
    "optimize_for": lambda value: value in get_args(OptimizeFor),
    "max_latency_seconds": _number(0.0),
    "max_cost_usd": _number(0.0),
    "min_success_rate": _number(0.0, 1.0),
    "only": _texts,
    "tags": _texts,
}
