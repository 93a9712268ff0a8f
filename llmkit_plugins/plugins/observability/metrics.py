"""The metrics there are: names, labels, buckets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmkit_plugins.plugins.observability.instruments import Bounded, Children, Family, Histogram, Sum
from llmkit_plugins.plugins.observability.later import Later

SECONDS = tuple(0.01 * 2**k for k in range(14))
"""Buckets of durations: those of the GenAI semantic conventions, 10 ms to 82 s."""

TOKEN_SECONDS = tuple(0.001 * 2**k for k in range(14))
"""Buckets of the time per output token: 1 ms to 8 s."""

HOOK_SECONDS = tuple(1e-6 * 4**k for k in range(11))
"""Buckets of the plugins' own time: 1 µs to 1 s."""

RATIOS = tuple(2.0 ** (k / 2) for k in range(-8, 9))
"""Buckets of actual against predicted: a sixteenth to sixteen times, two for each doubling."""

_WHO = ("provider", "model")


class Metrics:
    """The metric families, what waits to be written to them, and the bounds of their labels: *max_label_sets* providers
    and models, and as many limits, targets and kinds of error; what comes beyond is recorded under ``__overflow__``."""

    def __init__(self, max_label_sets: int = 500, later: Later | None = None) -> None:
        self.later = later or Later()
        self._who = Bounded(max_label_sets)
        self._named: dict[str, Bounded] = {}
        self._max_label_sets = max_label_sets
        self._series: dict[tuple[str, str], Series] = {}
        self.request_duration: Family[Histogram] = Family(
            "llmkit_request_duration_seconds",
            "histogram",
            "Seconds from the request to its end, by the provider and model that answered, or were asked last.",
            (*_WHO, "outcome"),
            SECONDS,
        )
        self.request_active: Family[Sum] = Family(
            "llmkit_request_active", "gauge", "Requests that have begun and not ended."
        )
        self.request_active.of()
        self.request_tokens: Family[Sum] = Family(
            "llmkit_request_tokens_total",
            "counter",
            "Tokens that providers counted, by direction; cached is a part of input, reasoning of output.",
            (*_WHO, "direction"),
        )
        self.request_cost: Family[Sum] = Family(
            "llmkit_request_cost_total", "counter", "USD spent, where the price is known.", _WHO
        )
        self.request_cost_unknown: Family[Sum] = Family(
            "llmkit_request_cost_unknown_total",
            "counter",
            "Answers, whole or in part, whose price or tokens nobody told: they are not in the cost.",
            _WHO,
        )
        self.attempt_duration: Family[Histogram] = Family(
            "llmkit_attempt_duration_seconds",
            "histogram",
            "Seconds from sending an attempt to its end, less the pauses of who reads its stream.",
            (*_WHO, "outcome"),
            SECONDS,
        )
        self.provider_errors: Family[Sum] = Family(
            "llmkit_provider_errors_total",
            "counter",
            "Attempts that a provider failed, by kind of error.",
            (*_WHO, "error_type"),
        )
        self.time_to_first_token: Family[Histogram] = Family(
            "llmkit_time_to_first_token_seconds",
            "histogram",
            "Seconds from sending an attempt to the first chunk that says something.",
            _WHO,
            SECONDS,
        )
        self.time_per_output_token: Family[Histogram] = Family(
            "llmkit_time_per_output_token_seconds",
            "histogram",
            "Seconds per output token after the first chunk of a stream.",
            _WHO,
            TOKEN_SECONDS,
        )
        self.time_per_output_chunk: Family[Histogram] = Family(
            "llmkit_time_per_output_chunk_seconds",
            "histogram",
            "Seconds from one chunk of a stream to the next, each counted with the mean of its stream.",
            _WHO,
            SECONDS,
        )
        self.refusals: Family[Sum] = Family(
            "llmkit_refusals_total", "counter", "Requests that were refused, by what refused them.", ("reason",)
        )
        self.limit_reached: Family[Sum] = Family(
            "llmkit_limit_reached_total",
            "counter",
            "Times a limit was used up, and what became of the call (refused, waited, passed).",
            ("limit", "action"),
        )
        self.limit_wait: Family[Histogram] = Family(
            "llmkit_limit_wait_seconds", "histogram", "Seconds that calls waited for a limit.", ("limit",), SECONDS
        )
        self.store_unreachable: Family[Sum] = Family(
            "llmkit_store_unreachable_total",
            "counter",
            "Times that what processes share could not be asked, and a call went on with what this one knows.",
        )
        self.circuit_state: Family[Sum] = Family(
            "llmkit_circuit_state",
            "gauge",
            "1 for the state (closed, open, half_open) a target's circuit is in, 0 for the others.",
            ("target", "state"),
        )
        self.circuit_transitions: Family[Sum] = Family(
            "llmkit_circuit_transitions_total",
            "counter",
            "Times a target's circuit went into a state.",
            ("target", "state"),
        )
        self.route_decisions: Family[Sum] = Family(
            "llmkit_route_decisions_total", "counter", "Targets that a router put first, by reason.", (*_WHO, "reason")
        )
        self.route_latency_ratio: Family[Histogram] = Family(
            "llmkit_route_latency_ratio",
            "histogram",
            "Actual over predicted latency (1: as predicted) of attempts that a router predicted and that ended well.",
            _WHO,
            RATIOS,
        )
        self.upstream_calls_saved: Family[Sum] = Family(
            "llmkit_upstream_calls_saved_total",
            "counter",
            "Requests answered without an attempt of their own: by another's (sharing), or by a plugin (answer).",
            ("by",),
        )
        self.followers: Family[Sum] = Family(
            "llmkit_followers_total", "counter", "Requests that joined another's attempt, however it ended."
        )
        self.hook_duration: Family[Histogram] = Family(
            "llmkit_hook_duration_seconds",
            "histogram",
            "Seconds that a plugin took in a hook, its waits not counted, in the calls that were timed (one of many).",
            ("plugin", "hook"),
            HOOK_SECONDS,
        )
        self.plugin_errors: Family[Sum] = Family(
            "llmkit_plugin_errors_total",
            "counter",
            "Bugs of plugins, which no call noticed, by where (plugin.hook).",
            ("where",),
        )
        self.telemetry_lost: Family[Sum] = Family(
            "llmkit_telemetry_lost_total",
            "counter",
            "Spans, and collections of metrics, that the OTLP receiver did not take, by signal (spans, metrics).",
            ("signal",),
        )

    def __iter__(self) -> Iterator[Family[Sum] | Family[Histogram]]:
        return (family for family in vars(self).values() if isinstance(family, Family))

    def series(self, provider: str, model: str) -> Series:
        """What is recorded of one provider's model."""
        series = self._series.get((provider, model))
        if series is None:
            provider, model = self.who(provider, model)
            series = self._series.get((provider, model))
        if series is None:
            series = self._series.setdefault((provider, model), Series(self, provider, model))
        return series

    def settle(self) -> None:
        """Add up what was noted."""
        for family in self:
            family.settle()

    def who(self, provider: str, model: str) -> tuple[str, ...]:
        """The two, or overflow labels where there are too many already."""
        return self._who.admit(provider, model)

    def bounded(self, label: str, value: str) -> str:
        """*value*, or the overflow label where *label* has too many already."""
        known = self._named.get(label)
        if known is None:
            known = self._named.setdefault(label, Bounded(self._max_label_sets))
        return known.admit(value)[0]


class Series:
    """The children of one provider's model, made when something is first added: what was never known is not a 0."""

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
    """Stands where a child of *family* will be kept. (A ``cached_property`` would make each use a half dearer.)"""

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
