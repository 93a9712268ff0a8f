"""All metrics: names, labels, buckets."""

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
"""Buckets of the ratio of actual to predicted: a sixteenth to sixteen, two per doubling."""

_WHO = ("provider", "model")


class Metrics:
    """The metric families, the values waiting to be written to them, and the bounds of their labels: *max_label_sets*
    pairs of provider and model, and as many limits, targets and kinds of error; later ones are recorded under
    ``__overflow__``."""

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
            "Tokens counted by providers, by direction; cached is part of input, reasoning part of output.",
            *_WHO,
            "direction",
        )
        self.request_cost = counter("llmkit_request_cost_total", "USD spent, where the price is known.", *_WHO)
        self.request_cost_unknown = counter(
            "llmkit_request_cost_unknown_total",
            "Complete or partial answers whose price or token count is unknown; they are missing from the cost.",
            *_WHO,
        )
        self.attempt_duration = histogram(
            "llmkit_attempt_duration_seconds",
            "Seconds from sending an attempt to its end, minus the pauses of the stream's consumer.",
            SECONDS,
            *_WHO,
            "outcome",
        )
        self.provider_errors = counter(
            "llmkit_provider_errors_total", "Attempts failed by the provider, by kind of error.", *_WHO, "error_type"
        )
        self.time_to_first_token = histogram(
            "llmkit_time_to_first_token_seconds",
            "Seconds from sending an attempt to the first chunk with content.",
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
            "Seconds between chunks of a stream, each interval counted with the mean of its stream.",
            SECONDS,
            *_WHO,
        )
        self.refusals = counter("llmkit_refusals_total", "Requests refused, by reason.", "reason")
        self.limit_reached = counter(
            "llmkit_limit_reached_total",
            "Times a limit was exhausted, by what happened to the call (refused, waited, passed).",
            "limit",
            "action",
        )
        self.limit_wait = histogram(
            "llmkit_limit_wait_seconds", "Seconds that calls waited for a limit.", SECONDS, "limit"
        )
        self.store_unreachable = counter(
            "llmkit_store_unreachable_total",
            "Times the store that processes share could not be reached, and a call proceeded with local knowledge.",
        )
        self.circuit_state = gauge(
            "llmkit_circuit_state",
            "1 for the state (closed, open, half_open) a target's circuit is in, 0 for the others.",
            "target",
            "state",
        )
        self.circuit_transitions = counter(
            "llmkit_circuit_transitions_total", "Times a target's circuit entered a state.", "target", "state"
        )
        self.route_decisions = counter(
            "llmkit_route_decisions_total", "Targets that a router ranked first, by reason.", *_WHO, "reason"
        )
        self.route_latency_ratio = histogram(
            "llmkit_route_latency_ratio",
            "Actual over predicted latency (1: as predicted) of successful attempts that a router predicted.",
            RATIOS,
            *_WHO,
        )
        self.upstream_calls_saved = counter(
            "llmkit_upstream_calls_saved_total",
            "Requests answered without an attempt of their own: by another's (sharing), or by a plugin (answer).",
            "by",
        )
        self.followers = counter(
            "llmkit_followers_total", "Requests that joined another's attempt, whatever the outcome."
        )
        self.hook_duration = histogram(
            "llmkit_hook_duration_seconds",
            "Seconds a plugin spent in a hook, excluding waits, in the sampled calls.",
            HOOK_SECONDS,
            "plugin",
            "hook",
        )
        self.plugin_errors = counter(
            "llmkit_plugin_errors_total", "Plugin bugs that did not affect calls, by where (plugin.hook).", "where"
        )
        self.telemetry_lost = counter(
            "llmkit_telemetry_lost_total",
            "Spans, and collections of metrics, that the OTLP receiver did not accept, by signal (spans, metrics).",
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
        """Both as label values, or overflow labels if there are too many already."""
        return self._who.admit(provider, model)

    def bounded(self, label: str, value: str) -> str:
        """*value*, or the overflow label if *label* has too many already."""
        known = self._named.get(label)
        if known is None:
            known = self._named.setdefault(label, Bounded(self._max_label_sets))
        return known.admit(value)[0]
