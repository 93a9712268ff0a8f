"""Turns what happens into metrics: what is counted where."""

from __future__ import annotations

from llmkit_plugins.call import Attempt, Call, Target, Usage
from llmkit_plugins.errors import CircuitOpen, NoTarget, PluginFailed, RateLimited
from llmkit_plugins.events import CircuitChanged
from llmkit_plugins.plugins.observability.cost import Prices, has_cost
from llmkit_plugins.plugins.observability.genai import error_type, told_by
from llmkit_plugins.plugins.observability.instruments import Exemplar
from llmkit_plugins.plugins.observability.metrics import Metrics
from llmkit_plugins.plugins.observability.series import Series

NONE = "none"
"""The label of a call that reached no provider."""

NOTES = 4096
"""After this many starts and ends of calls, notes are summed even if nobody reads: a third of a millisecond."""

TARGETS = 1000
"""How many targets' series are cached before starting over: a backend may make new targets for each call."""

_REFUSED_BY: dict[type, str] = {
    RateLimited: "rate_limited",
    CircuitOpen: "circuit_open",
    NoTarget: "no_target",
    PluginFailed: "plugin_failed",
}
_STATES = ("closed", "open", "half_open")


class Counting:
    """Writes to *metrics*, from any thread."""

    def __init__(self, metrics: Metrics, prices: Prices) -> None:
        self.metrics, self.prices = metrics, prices
        self.active = metrics.request_active.of()
        """Requests that have begun and not ended; the caller adds one at its beginning, ``ended`` subtracts it."""
        self._series: dict[Target, Series] = {}

    def ended(self, call: Call, error: BaseException | None, seconds: float, exemplar: Exemplar | None) -> None:
        """A request ended: count it for the target that answered it or was tried last."""
        active, attempt = self.active, told_by(call)
        active.add(-1.0)
        if attempt is None:
            series = self.metrics.series(NONE, call.model or NONE)
        else:
            series = self._series.get(attempt.target) or self._series_of(attempt.target)
        durations = series.requests[call.outcome or NONE]
        durations.add(seconds)
        if exemplar is not None:
            durations.remember(seconds, exemplar)
        if not call.attempts or call.outcome == "refused":
            self._unanswered(call, error)
        if len(active.noted) > NOTES:
            self.metrics.settle()

    def _unanswered(self, call: Call, error: BaseException | None) -> None:
        """No attempt of its own answered it, or it was refused after some."""
        if call.outcome == "refused":
            self.metrics.refusals.of(_reason(error)).add(1.0)
            return
        if call.share is not None:
            self.metrics.followers.of().add(1.0)
        if call.response is not None:
            by = "answer" if call.response.shared is None else "sharing"
            self.metrics.upstream_calls_saved.of(by).add(1.0)

    def attempted(self, attempt: Attempt, exemplar: Exemplar | None) -> None:
        """An attempt ended."""
        target, usage, outcome = attempt.target, attempt.usage, attempt.outcome
        started, first, finished = attempt.started, attempt.first_chunk, attempt.finished
        series = self._series.get(target) or self._series_of(target)
        if started is not None and finished is not None:
            finished -= attempt.paused_seconds
            durations = series.attempts[outcome or NONE]
            durations.add(finished - started)
            if exemplar is not None:
                durations.remember(finished - started, exemplar)
            if first is not None:
                _count_stream(series, attempt, first - started, finished - first, exemplar)
        if usage is not None:
            series.input_tokens.add(usage.input_tokens)
            series.output_tokens.add(usage.output_tokens)
            if usage.cached_tokens:
                series.cached_tokens.add(usage.cached_tokens)
            if usage.reasoning_tokens:
                series.reasoning_tokens.add(usage.reasoning_tokens)
        if outcome == "error":
            self._failed(series, attempt)
        cost = None if usage is None else target.cost(usage)
        if cost is None:
            cost = attempt.reported_cost
        if cost is not None:
            series.cost.add(cost)
        elif usage is not None:
            self.metrics.later.note(self._count_listed, series, target, usage)  # the list may take 0.1 ms
        elif has_cost(attempt):
            series.cost_unknown.add(1.0)

    def _failed(self, series: Series, attempt: Attempt) -> None:
        """The provider failed: count the kind of the error, else its class."""
        kind = attempt.kind or self.metrics.bounded("error_type", error_type(None, attempt.error))
        series.errors[kind].add(1.0)

    def _count_listed(self, series: Series, target: Target, usage: Usage) -> None:
        cost = self.prices.listed(target, usage)
        if cost is None:
            series.cost_unknown.add(1.0)
        else:
            series.cost.add(cost)

    def _series_of(self, target: Target) -> Series:
        series = self.metrics.series(target.provider, target.model)
        if len(self._series) >= TARGETS:
            self._series.clear()
        self._series[target] = series
        return series

    def limited(self, limit: str, action: str, seconds: float) -> None:
        """A limit was used up."""
        limit = self.metrics.bounded("limit", limit)
        self.metrics.limit_reached.of(limit, action).add(1.0)
        if action == "waited":
            self.metrics.limit_wait.of(limit).add(seconds)

    def store_unreachable(self) -> None:
        """The store shared by processes could not be reached."""
        self.metrics.store_unreachable.of().add(1.0)

    def circuit_changed(self, event: CircuitChanged) -> None:
        """A circuit changed."""
        target = self.metrics.bounded("target", event.target)
        for state in _STATES:
            self.metrics.circuit_state.of(target, state).set(float(state == event.after))
        self.metrics.circuit_transitions.of(target, event.after).add(1.0)

    def routed(self, target: Target, reason: str) -> None:
        """A router decided."""
        series = self._series.get(target) or self._series_of(target)
        known = series.routed.get(reason) or series.routed[self.metrics.bounded("reason", reason)]
        known.add(1.0)

    def predicted(self, target: Target, ratio: float) -> None:
        """An attempt took *ratio* times as long as the router predicted."""
        series = self._series.get(target) or self._series_of(target)
        series.latency_ratio.add(ratio)

    def plugin_failed(self, where: str) -> None:
        """A plugin has a bug."""
        self.metrics.plugin_errors.of(self.metrics.bounded("where", where)).add(1.0)

    def hook_took(self, plugin: str, hook: str, seconds: float) -> None:
        """A plugin was timed in a hook."""
        self.metrics.hook_duration.of(self.metrics.bounded("plugin", plugin), hook).add(seconds)


def _reason(error: BaseException | None) -> str:
    """What refused the call: integrations raise subclasses that are also an error of their framework's."""
    return next((_REFUSED_BY[cls] for cls in type(error).__mro__ if cls in _REFUSED_BY), "other")


def _count_stream(
    series: Series, attempt: Attempt, to_first: float, after_first: float, exemplar: Exemplar | None
) -> None:
    """Count when *attempt* began to answer, and how fast its chunks and tokens came: every chunk counts as the mean."""
    series.first_token.add(to_first)
    if exemplar is not None:
        series.first_token.remember(to_first, exemplar)
    if attempt.outcome != "ok":
        return
    chunks, usage = attempt.chunks - 1, attempt.usage
    if chunks > 0:
        pace = after_first / chunks
        series.per_chunk.add_many(pace, chunks)
        if exemplar is not None:
            series.per_chunk.remember(pace, exemplar)
    if usage is not None and usage.output_tokens > 1:
        pace = after_first / (usage.output_tokens - 1)
        series.per_token.add(pace)
        if exemplar is not None:
            series.per_token.remember(pace, exemplar)
