"""The metrics through OpenTelemetry: the same values, the conventions' names and buckets."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

from llmkit_plugins import Call, LLMKit, Target, Usage
from llmkit_plugins.events import CircuitChanged
from llmkit_plugins.plugins.observability import ObservabilityPlugin
from llmkit_plugins.plugins.observability.instruments import OVERFLOW
from llmkit_plugins.plugins.observability.metrics import SECONDS
from llmkit_plugins.testing import MODES, Failure, Last, Pause, ScriptedBackend, drive


@pytest.fixture
def reader() -> InMemoryMetricReader:
    """Collects when it is asked."""
    return InMemoryMetricReader()


@pytest.fixture
def kit(reader, clock):
    """A kit whose metrics go to OpenTelemetry only."""
    meters = MeterProvider([reader], shutdown_on_exit=False)
    plugin = ObservabilityPlugin(
        CollectorRegistry(), meter_provider=meters, metrics=["opentelemetry"], traces=False, time_hooks_every=0
    )
    with LLMKit([plugin], [Target("a", "azure", "m", 1.0, 2.0)], clock=clock, on_plugin_error="raise") as kit:
        yield kit
    meters.shutdown()


@pytest.fixture
def points(reader):
    """The points that a collection finds, by instrument."""

    def collect() -> dict[str, list[Any]]:
        data = reader.get_metrics_data()
        metrics = [m for r in data.resource_metrics for scope in r.scope_metrics for m in scope.metrics]
        return {metric.name: list(metric.data.data_points) for metric in metrics}

    return collect


WHO = {"gen_ai.provider.name": "azure.ai.openai", "gen_ai.request.model": "m"}
SAID = {**WHO, "gen_ai.operation.name": "chat"}


@pytest.mark.parametrize("mode", MODES)
def test_the_conventions_instruments(mode, kit, points, clock):
    """Duration, time to the first chunk and to each next one, and tokens, in the conventions' buckets."""
    script = [Pause(1.0), "x", Pause(0.5), "y", Pause(1.5), Last("z", Usage(10, 8))]
    drive(kit, call := Call("hi"), ScriptedBackend(default=script, sleep=clock.sleep), mode)
    told = points()
    (duration,) = told["gen_ai.client.operation.duration"]
    assert dict(duration.attributes) == SAID
    assert duration.sum == pytest.approx(3.0)
    assert duration.explicit_bounds == SECONDS == tuple(0.01 * 2**k for k in range(14))
    tokens = {point.attributes["gen_ai.token.type"]: point for point in told["gen_ai.client.token.usage"]}
    assert {way: point.sum for way, point in tokens.items()} == {"input": 10, "output": 8}
    assert tokens["input"].explicit_bounds == tuple(4.0**k for k in range(14))
    first = told.get("gen_ai.client.operation.time_to_first_chunk", [])
    assert [point.sum for point in first] == ([pytest.approx(1.0)] if call.stream else [])
    chunks = told.get("gen_ai.client.operation.time_per_output_chunk", [])
    assert [(point.count, point.sum) for point in chunks] == ([(2, pytest.approx(2.0))] if call.stream else [])
    assert {point.explicit_bounds for point in [*first, *chunks]} <= {SECONDS}


def test_a_failure_has_its_type(kit, points):
    """As the conventions want it, on the duration."""
    with pytest.raises(Failure):
        kit.call(Call("hi"), ScriptedBackend(default=[Failure("overloaded")]))
    told = points()
    (duration,) = told["gen_ai.client.operation.duration"]
    assert dict(duration.attributes) == {**SAID, "error.type": "overloaded"}
    (errors,) = told["llmkit.provider_errors"]
    assert (errors.value, dict(errors.attributes)) == (1, {**WHO, "error.type": "overloaded"})


def test_ours_have_the_same_values(kit, points):
    """Counters, gauges and histograms of ours, under ``llmkit.``; they add up from one collection to the next."""
    for _ in range(2):
        kit.call(Call("hi"), ScriptedBackend())
        told = points()
    kit.events.publish(CircuitChanged("a", "closed", "open", "why"))
    (requests,) = told["llmkit.request_duration"]
    assert (requests.count, dict(requests.attributes)) == (2, {**WHO, "outcome": "ok"})
    assert [point.value for point in told["llmkit.request_cost"]] == [pytest.approx(2 * (5 * 1.0 + 3 * 2.0) / 1e6)]
    assert [point.value for point in told["llmkit.request_active"]] == [0]
    states = {point.attributes["state"]: point.value for point in points()["llmkit.circuit_state"]}
    assert states == {"closed": 0, "open": 1, "half_open": 0}


def test_the_conventions_attributes_are_bounded(reader, clock):
    """What models and errors there are beyond the bound is told as overflow, as under our names."""
    meters = MeterProvider([reader], shutdown_on_exit=False)
    plugin = ObservabilityPlugin(
        CollectorRegistry(), meter_provider=meters, metrics=["opentelemetry"], traces=False, max_label_sets=2
    )
    targets = [Target(f"t{n}", "p", f"m{n}", serves=frozenset({f"m{n}"})) for n in range(4)]
    kit = LLMKit([plugin], targets, clock=clock)
    for n in range(4):
        error = type(f"Bug{n}", (Exception,), {})
        with suppress(error):
            kit.call(Call("hi", model=f"m{n}"), ScriptedBackend(default=[error()]))
    metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    (duration,) = [metric for metric in metrics if metric.name == "gen_ai.client.operation.duration"]
    told = {(p.attributes["gen_ai.request.model"], p.attributes["error.type"]) for p in duration.data.data_points}
    assert told == {("m0", "Bug0"), ("m1", "Bug1"), (OVERFLOW, OVERFLOW)}
    meters.shutdown()


def test_the_conventions_are_not_told_twice(kit, points):
    """What they have an instrument for is not there under our name as well."""
    kit.call(Call("hi"), ScriptedBackend())
    assert "llmkit.attempt_duration" not in points()


def test_what_waits_is_handed_over_when_the_kit_closes(reader, clock):
    """The last collection of the application's provider, which may come later, finds it."""
    meters = MeterProvider([reader], shutdown_on_exit=False)
    plugin = ObservabilityPlugin(CollectorRegistry(), meter_provider=meters, metrics=["opentelemetry"], traces=False)
    with LLMKit([plugin], [Target("a", "p", "m", 1.0, 2.0)], clock=clock) as kit:
        kit.call(Call("hi"), ScriptedBackend())
    assert plugin.recorder.metrics.request_duration.of("p", "m", "ok").counts[0] == 1
    meters.shutdown()


def test_both_at_once():
    """One call is counted once in each."""
    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    plugin = ObservabilityPlugin(registry, meter_provider=meters, metrics=["prometheus", "opentelemetry"], traces=False)
    LLMKit([plugin], [Target("a", "p", "m", 1.0, 2.0)]).call(Call("hi"), ScriptedBackend())
    tokens = {"provider": "p", "model": "m", "direction": "input"}
    assert registry.get_sample_value("llmkit_request_tokens_total", tokens) == 5
    metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    (ours,) = [metric for metric in metrics if metric.name == "llmkit.request_tokens"]
    assert {point.attributes["direction"]: point.value for point in ours.data.data_points} == {"input": 5, "output": 3}
    meters.shutdown()


def test_two_plugins_that_share_the_metrics_count_once(reader):
    """Each call of either kit is one value, though both were told to export."""
    registry, meters = CollectorRegistry(), MeterProvider([reader], shutdown_on_exit=False)
    for _ in range(2):
        plugin = ObservabilityPlugin(
            registry, meter_provider=meters, metrics=["prometheus", "opentelemetry"], traces=False
        )
        LLMKit([plugin], [Target("a", "p", "m", 1.0, 2.0)]).call(Call("hi"), ScriptedBackend())
    metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    counts = {m.name: [p.count for p in m.data.data_points] for m in metrics if "duration" in m.name}
    assert counts["llmkit.request_duration"] == counts["gen_ai.client.operation.duration"] == [2]
    meters.shutdown()
