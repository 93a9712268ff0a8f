"""Turns what was noted into the metrics: who is counted where."""

from __future__ import annotations

from llmkit_plugins.call import Target, Usage
from llmkit_plugins.errors import CircuitOpen, NoTarget, PluginFailed, RateLimited
from llmkit_plugins.events import CircuitChanged
from llmkit_plugins.plugins.observability.cost import Prices, has_cost
from llmkit_plugins.plugins.observability.instruments import Exemplar
from llmkit_plugins.plugins.observability.metrics import Metrics, Series

NONE = "none"
"""The label of a call that reached no provider."""

_REFUSED_BY: dict[type[BaseException], str] = {
    RateLimited: "rate_limited",
    CircuitOpen: "circuit_open",
    NoTarget: "no_target",
    PluginFailed: "plugin_failed",
}
_STATES = ("closed", "open", "half_open")


class Counting:
    """Writes to *metrics*. Every method is called by one thread at a time, after the fact."""

    def __init__(self, metrics: Metrics, prices: Prices) -> None:
        self.metrics, self.prices = metrics, prices
        self._active = metrics.request_active.of()

    def begun(self) -> None:
        """A request began."""
        self._active.add(1.0)

    def ended(
        self, target: Target | None, model: str | None, outcome: str | None, seconds: float, exemplar: Exemplar | None
    ) -> None:
        """A request ended; *target* answered, or was asked last."""
        self._active.add(-1.0)
        if target is None:
            series = self.metrics.series(NONE, model or NONE)
        else:
            series = self.metrics.series(target.provider, target.model)
        series.requests[outcome or NONE].observe(seconds, exemplar)

    def refused(self, by: type[BaseException]) -> None:
        """It was refused."""
        self.metrics.refusals.of(_REFUSED_BY.get(by, "other")).add()

    def unattempted(self, followed: bool, saved_by: str | None) -> None:  # noqa: FBT001 - facts come by position
        """It ended without an attempt of its own: it joined another's, or a plugin answered."""
        if followed:
            self.metrics.followers.of().add()
        if saved_by is not None:
            self.metrics.upstream_calls_saved.of(saved_by).add()

    def attempted(
        self,
        target: Target,
        started: float | None,
        first: float | None,
        finished: float,
        paused: float,
        outcome: str | None,
        usage: Usage | None,
        chunks: int,
        reported_cost: float | None,
        exemplar: Exemplar | None,
    ) -> None:
        """An attempt ended."""
        series = self.metrics.series(target.provider, target.model)
        if started is not None:
            series.attempts[outcome or NONE].observe(finished - started - paused, exemplar)
            if first is not None:
                series.first_token.observe(first - started, exemplar)
                if outcome == "ok" and chunks > 1:
                    series.per_chunk.observe((finished - first - paused) / (chunks - 1), exemplar, chunks - 1)
                if outcome == "ok" and usage is not None and usage.output_tokens > 1:
                    series.per_token.observe((finished - first - paused) / (usage.output_tokens - 1), exemplar)
        if usage is not None:
            _count_tokens(series, usage)
        cost = self.prices.of(target, usage, reported_cost)
        if cost is not None:
            series.cost.add(cost)
        elif has_cost(usage, reported_cost, started, first, outcome):
            series.cost_unknown.add()

    def failed(self, target: Target, kind: str | None, error: str) -> None:
        """The provider failed it: with an error of *kind*, else of a class."""
        series = self.metrics.series(target.provider, target.model)
        series.errors[kind or self.metrics.bounded("error_type", error)].add()

    def limited(self, limit: str, action: str, seconds: float) -> None:
        """A limit was used up."""
        limit = self.metrics.bounded("limit", limit)
        self.metrics.limit_reached.of(limit, action).add()
        if action == "waited":
            self.metrics.limit_wait.of(limit).observe(seconds)

    def circuit_changed(self, event: CircuitChanged) -> None:
        """A circuit changed."""
        target = self.metrics.bounded("target", event.target)
        for state in _STATES:
            self.metrics.circuit_state.of(target, state).set(float(state == event.after))
        self.metrics.circuit_transitions.of(target, event.after).add()

    def routed(self, target: Target, reason: str) -> None:
        """A router decided."""
        series = self.metrics.series(target.provider, target.model)
        series.routed[self.metrics.bounded("reason", reason)].add()

    def predicted(self, target: Target, ratio: float) -> None:
        """What a router predicted took *ratio* times as long."""
        self.metrics.series(target.provider, target.model).latency_ratio.observe(ratio)

    def plugin_failed(self, where: str) -> None:
        """A plugin has a bug."""
        self.metrics.plugin_errors.of(self.metrics.bounded("where", where)).add()

    def hook_took(self, plugin: str, hook: str, seconds: float) -> None:
        """A plugin was timed in a hook."""
        self.metrics.hook_duration.of(self.metrics.bounded("plugin", plugin), hook).observe(seconds)


def _count_tokens(series: Series, usage: Usage) -> None:
    series.tokens["input"].add(usage.input_tokens)
    series.tokens["output"].add(usage.output_tokens)
    if usage.cached_tokens:
        series.tokens["cached"].add(usage.cached_tokens)
    if usage.reasoning_tokens:
        series.tokens["reasoning"].add(usage.reasoning_tokens)
