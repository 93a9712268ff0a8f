"""The metrics through OpenTelemetry: the GenAI conventions' instruments, and ours as ``llmkit.*``.

Counters and gauges are read at collection. The SDK wants every value of a histogram, which takes it several µs: values
are noted, and written at the next collection, in the collector's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation

from llmkit_plugins.call import Attempt, Call
from llmkit_plugins.plugins.observability import genai
from llmkit_plugins.plugins.observability.instruments import Family, Relay
from llmkit_plugins.plugins.observability.later import Later
from llmkit_plugins.plugins.observability.metrics import SECONDS, Metrics

_ATTRIBUTES = {
    "provider": genai.PROVIDER,
    "model": genai.REQUEST_MODEL,
    "error_type": genai.ERROR_TYPE,
}
"""The labels that have a name in the conventions."""

_COVERED = frozenset(
    {
        "llmkit_attempt_duration_seconds",
        "llmkit_time_per_output_chunk_seconds",
        "llmkit_time_to_first_token_seconds",
    }
)
"""Our metrics for which the conventions have an instrument."""

_UNITS = {
    "llmkit_request_cost_total": "USD",
    "llmkit_request_tokens_total": "{token}",
    "llmkit_route_latency_ratio": "1",
}


class GenAI:
    """The instruments of the GenAI conventions, for each attempt that reached a provider."""

    def __init__(self, meter: Meter, metrics: Metrics) -> None:
        self._metrics = metrics
        self._duration = _histogram(meter, "gen_ai.client.operation.duration", "s", SECONDS)
        self._first_chunk = _histogram(meter, "gen_ai.client.operation.time_to_first_chunk", "s", SECONDS)
        self._per_chunk = _histogram(meter, "gen_ai.client.operation.time_per_output_chunk", "s", SECONDS)
        self._tokens = _histogram(meter, "gen_ai.client.token.usage", "{token}", genai.TOKEN_BUCKETS)

    def attempted(self, call: Call, attempt: Attempt, note: Callable[..., None], context: Context | None) -> None:
        """*note* the values for *attempt*, which ended; *context* is that of its trace, for exemplars."""
        seconds, to_first, usage = attempt.duration, attempt.time_to_first_chunk, attempt.usage
        if seconds is None:
            return
        told = self._who(call, attempt)
        if to_first is not None:
            note(self._first_chunk.record, to_first, told, context)
            if attempt.chunks > 1 and attempt.outcome == "ok":
                times = attempt.chunks - 1  # the conventions want a value for each: it is the mean of its stream
                note(_record, self._per_chunk, (seconds - to_first) / times, times, told, context)
        if usage is not None:
            note(self._tokens.record, usage.input_tokens, {**told, genai.TOKEN_TYPE: "input"}, context)
            note(self._tokens.record, usage.output_tokens, {**told, genai.TOKEN_TYPE: "output"}, context)
        if attempt.outcome == "error":
            error = attempt.kind or self._metrics.bounded("error_type", genai.error_type(None, attempt.error))
            told = {**told, genai.ERROR_TYPE: error}
        note(self._duration.record, seconds, told, context)

    def _who(self, call: Call, attempt: Attempt) -> dict[str, Any]:
        provider, model = self._metrics.who(attempt.target.provider, attempt.target.model)
        told = {
            genai.OPERATION: call.operation,
            genai.PROVIDER: genai.provider_name(provider),
            genai.REQUEST_MODEL: model,
        }
        if attempt.model is not None:
            told[genai.RESPONSE_MODEL] = self._metrics.bounded("response model", attempt.model)
        return told


def _record(to: Histogram, value: float, times: int, told: dict[str, Any], context: Context | None = None) -> None:
    for _ in range(times):
        to.record(value, told, context)


_exports: WeakKeyDictionary[Metrics, list[tuple[MeterProvider, GenAI]]] = WeakKeyDictionary()


def export(metrics: Metrics, provider: MeterProvider, scope: str) -> GenAI:
    """Export *metrics* and the conventions' through *provider*; only once, however many plugins share them."""
    for known, genai_metrics in _exports.setdefault(metrics, []):
        if known is provider:
            return genai_metrics
    meter = provider.get_meter(scope)
    _export(metrics, meter)
    exported = GenAI(meter, metrics)
    _exports[metrics].append((provider, exported))
    return exported


def _export(metrics: Metrics, meter: Meter) -> None:
    for family in metrics:
        name, unit = _renamed(family.name), _UNITS.get(family.name, "s" if "_seconds" in family.name else "1")
        if family.name in _COVERED:
            continue
        if family.kind == "histogram":
            family.relay(_relay(_histogram(meter, name, unit, family.bounds), family, metrics.later))
            continue
        create: Any = {"counter": meter.create_observable_counter, "gauge": meter.create_observable_gauge}[family.kind]
        create(name, [_observe(family, metrics.later)], unit, family.documentation)


def _renamed(name: str) -> str:
    return name.replace("llmkit_", "llmkit.", 1).removesuffix("_total").removesuffix("_seconds")


def _histogram(meter: Meter, name: str, unit: str, bounds: tuple[float, ...]) -> Histogram:
    return meter.create_histogram(name, unit, explicit_bucket_boundaries_advisory=bounds)


def _attributes(family: Family[Any], values: tuple[str, ...]) -> dict[str, str]:
    told = {_ATTRIBUTES.get(label, label): value for label, value in zip(family.labels, values, strict=True)}
    if genai.PROVIDER in told:
        told[genai.PROVIDER] = genai.provider_name(told[genai.PROVIDER])
    return told


def _relay(to: Histogram, family: Family[Any], later: Later) -> Callable[[tuple[str, ...]], Relay]:
    def bound(values: tuple[str, ...]) -> Relay:
        attributes = _attributes(family, values)
        return lambda value, times=1: later.note(_record, to, value, times, attributes)

    return bound


def _observe(family: Family[Any], later: Later) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observed(_: CallbackOptions) -> Iterable[Observation]:
        later.settle()  # callbacks run before the histograms are read
        return [Observation(child.value, _attributes(family, values)) for values, child in family.children()]

    return observed
