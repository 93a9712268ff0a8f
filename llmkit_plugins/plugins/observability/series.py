"""The metrics of one provider's model, cached for each call to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmkit_plugins.plugins.observability.instruments import Children, Family, Histogram, Sum

if TYPE_CHECKING:
    from llmkit_plugins.plugins.observability.metrics import Metrics


class Series:
    """The children of one provider's model, created when first added to: what was never known is not 0."""

    cached_tokens: Sum
    cost: Sum
    cost_unknown: Sum
    first_token: Histogram
    input_tokens: Sum
    latency_ratio: Histogram
    output_tokens: Sum
    per_chunk: Histogram
    per_token: Histogram
    reasoning_tokens: Sum

    def __init__(self, metrics: Metrics, provider: str, model: str) -> None:
        self.requests = Children(metrics.request_duration, provider, model)
        self.attempts = Children(metrics.attempt_duration, provider, model)
        self.errors = Children(metrics.provider_errors, provider, model)
        self.routed = Children(metrics.route_decisions, provider, model)
        who = (provider, model)
        for name, family, values in (
            ("cached_tokens", metrics.request_tokens, (*who, "cached")),
            ("cost", metrics.request_cost, who),
            ("cost_unknown", metrics.request_cost_unknown, who),
            ("first_token", metrics.time_to_first_token, who),
            ("input_tokens", metrics.request_tokens, (*who, "input")),
            ("latency_ratio", metrics.route_latency_ratio, who),
            ("output_tokens", metrics.request_tokens, (*who, "output")),
            ("per_chunk", metrics.time_per_output_chunk, who),
            ("per_token", metrics.time_per_output_token, who),
            ("reasoning_tokens", metrics.request_tokens, (*who, "reasoning")),
        ):
            setattr(self, name, _Awaited(self, name, family, values))


class _Awaited:
    """Placeholder for a child of *family*. (A ``cached_property`` would make each use cost half as much again.)"""

    def __init__(self, series: Series, name: str, family: Family[Any], values: tuple[str, ...]) -> None:
        self._series, self._name, self._family, self._values = series, name, family, values

    def _made(self) -> Any:
        child = self._family.of(*self._values)
        setattr(self._series, self._name, child)
        return child

    def add(self, amount: float) -> None:
        self._made().add(amount)

    def add_many(self, value: float, times: int) -> None:
        self._made().add_many(value, times)
