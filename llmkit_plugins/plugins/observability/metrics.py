"""The metrics there are: names, labels, buckets."""

from __future__ import annotations

from collections.abc import Iterator

from llmkit_plugins.plugins.observability.instruments import Bounded, Family, Histogram, Sum, counter, gauge, histogram
from llmkit_plugins.plugins.observability.later import Later
from llmkit_plugins.plugins.observability.series import Series

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
        self.request_duration = histogram(
            "llmkit_request_duration_seconds",
            "Seconds from the request to its end, by the provider and model that answered, or were asked last.",
            SECONDS,
            *_WHO,
            "outcome",
        )
        self.request_active = gauge("llmkit_request_active", "Requests that have begun and not ended.")
        self.request_active.of()
        self.request_tokens = counter(
            "llmkit_request_tokens_total",
            "Tokens that providers counted, by direction; cached is a part of input, reasoning of output.",
            *_WHO,
            "direction",
        )
        self.request_cost = counter("llmkit_request_cost_total", "USD spent, where the price is known.", *_WHO)
        self.request_cost_unknown = counter(
            "llmkit_request_cost_unknown_total",
            "Answers, whole or in part, whose price or tokens nobody told: they are not in the cost.",
            *_WHO,
        )
        self.attempt_duration = histogram(
            "llmkit_attempt_duration_seconds",
            "Seconds from sending an attempt to its end, less the pauses of who reads its stream.",
            SECONDS,
            *_WHO,
            "outcome",
        )
        self.provider_errors = counter(
            "llmkit_provider_errors_total", "Attempts that a provider failed, by kind of error.", *_WHO, "error_type"
        )
        self.time_to_first_token = histogram(
            "llmkit_time_to_first_token_seconds",
            "Seconds from sending an attempt to the first chunk that says something.",
            SECONDS,
            *_WHO,
        )
        self.time_per_output_token = histogram(
            "llmkit_time_per_output_token_seconds",
            "Seconds per output token after the first chunk of a stream.",
            TOKEN_SECONDS,
            *_WHO,
        )
        self.time_per_output_chunk = histogram(
            "llmkit_time_per_output_chunk_seconds",
            "Seconds from one chunk of a stream to the next, each counted with the mean of its stream.",
            SECONDS,
            *_WHO,
        )
        self.refusals = counter("llmkit_refusals_total", "Requests that were refused, by what refused them.", "reason")
        self.limit_reached = counter(
            "llmkit_limit_reached_total",
            "Times a limit was used up, and what became of the call (refused, waited, passed).",
            "limit",
            "action",
        )
        self.limit_wait = histogram(
            "llmkit_limit_wait_seconds", "Seconds that calls waited for a limit.", SECONDS, "limit"
        )
        self.store_unreachable = counter(
            "llmkit_store_unreachable_total",
            "Times that what processes share could not be asked, and a call went on with what this one knows.",
        )
        self.circuit_state = gauge(
            "llmkit_circuit_state",
            "1 for the state (closed, open, half_open) a target's circuit is in, 0 for the others.",
            "target",
            "state",
        )
        self.circuit_transitions = counter(
            "llmkit_circuit_transitions_total", "Times a target's circuit went into a state.", "target", "state"
        )
        self.route_decisions = counter(
            "llmkit_route_decisions_total", "Targets that a router put first, by reason.", *_WHO, "reason"
        )
        self.route_latency_ratio = histogram(
            "llmkit_route_latency_ratio",
            "Actual over predicted latency (1: as predicted) of attempts that a router predicted and that ended well.",
            RATIOS,
            *_WHO,
        )
        self.upstream_calls_saved = counter(
            "llmkit_upstream_calls_saved_total",
            "Requests answered without an attempt of their own: by another's (sharing), or by a plugin (answer).",
            "by",
        )
        self.followers = counter("llmkit_followers_total", "Requests that joined another's attempt, however it ended.")
        self.hook_duration = histogram(
            "llmkit_hook_duration_seconds",
            "Seconds that a plugin took in a hook, its waits not counted, in the calls that were timed (one of many).",
            HOOK_SECONDS,
            "plugin",
            "hook",
        )
        self.plugin_errors = counter(
            "llmkit_plugin_errors_total", "Bugs of plugins, which no call noticed, by where (plugin.hook).", "where"
        )
        self.telemetry_lost = counter(
            "llmkit_telemetry_lost_total",
            "Spans, and collections of metrics, that the OTLP receiver did not take, by signal (spans, metrics).",
            "signal",
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
