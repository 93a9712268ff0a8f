"""Metrics over OTLP, and a collector that is down, slow or refuses: no caller notices, and what is lost is counted."""

from __future__ import annotations

import socket

import pytest

from llmkit_plugins import Call, LLMKit, Target
from llmkit_plugins.plugins.observability import ObservabilityPlugin, otlp
from llmkit_plugins.testing import ScriptedBackend

TARGETS = [Target("a", "provider", "model", 1.0, 2.0)]
CALLS = 20


def watched(endpoint: str, protocol: str, **settings) -> tuple[LLMKit, ObservabilityPlugin]:
    plugin = ObservabilityPlugin(own_registry=True, otlp_endpoint=endpoint, otlp_protocol=protocol, **settings)
    return LLMKit([plugin], TARGETS, on_plugin_error="raise"), plugin


def call(kit: LLMKit) -> None:
    for _ in range(CALLS):
        assert kit.call(Call("hi"), ScriptedBackend()).raw == "abc"


def lost(plugin: ObservabilityPlugin, signal: str = "spans") -> float | None:
    return plugin.registry.get_sample_value("llmkit_telemetry_lost_total", {"signal": signal})


def test_spans_and_metrics_arrive(endpoint, protocol, inbox):
    """Everything that was recorded is there once the kit is closed, and nothing was lost."""
    kit, plugin = watched(endpoint, protocol, metrics=["prometheus", "opentelemetry"])
    call(kit)
    kit.close()
    assert len(inbox.spans) == 2 * CALLS
    assert lost(plugin) == 0
    (duration,) = inbox.metrics["gen_ai.client.operation.duration"].histogram.data_points
    assert duration.count == CALLS
    directions = {
        point.attributes[-1].value.string_value: point.as_double
        for point in inbox.metrics["llmkit.request_tokens"].sum.data_points
    }
    assert directions == {"input": 5 * CALLS, "output": 3 * CALLS}


def test_a_collector_that_refuses(endpoint, protocol, inbox):
    """Every call is answered, every span is lost, and counted."""
    inbox.refuses = True
    kit, plugin = watched(endpoint, protocol)
    call(kit)
    kit.close()
    assert inbox.requests > 0
    assert lost(plugin) == 2 * CALLS


def test_a_collector_that_is_down(protocol, monkeypatch):
    """Nobody listens at that port: the calls are answered, and closing does not wait for it."""
    monkeypatch.setattr(otlp, "CLOSE_SECONDS", 0.2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kit, plugin = watched(f"http://127.0.0.1:{port}", protocol)
    call(kit)
    kit.close()
    assert lost(plugin) == 2 * CALLS


def test_a_collector_that_is_slow(endpoint, protocol, inbox, monkeypatch):
    """While it holds a request, calls go on and spans wait up to the bound; the rest is lost, and counted."""
    monkeypatch.setattr(otlp, "CLOSE_SECONDS", 0.2)
    inbox.held.clear()
    kit, plugin = watched(endpoint, protocol)
    call(kit)
    kit.close()
    assert inbox.spans == []
    assert lost(plugin) == 2 * CALLS


METRICS = {"metrics": ["prometheus", "opentelemetry"], "traces": False}


def test_a_collector_that_refuses_metrics(endpoint, protocol, inbox):
    """The collection is lost, and counted, and Prometheus has the values all the same."""
    inbox.refuses = True
    kit, plugin = watched(endpoint, protocol, **METRICS)
    call(kit)
    kit.close()
    assert inbox.metrics == {}
    assert lost(plugin, "metrics") == 1
    assert plugin.registry.get_sample_value("llmkit_followers_total") is None
    assert plugin.recorder.metrics.request_duration.of("provider", "model", "ok").total > 0


@pytest.mark.parametrize("how", ["down", "slow"])
def test_a_collector_that_takes_no_metrics(how, endpoint, protocol, inbox, monkeypatch):
    """Every call is answered, and closing waits no longer than it may; what is lost is counted."""
    monkeypatch.setattr(otlp, "CLOSE_SECONDS", 0.2)
    if how == "down":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    inbox.held.clear()
    kit, plugin = watched(endpoint, protocol, **METRICS)
    call(kit)
    kit.close()
    assert inbox.metrics == {}
    assert lost(plugin, "metrics") == 1


@pytest.mark.parametrize("signal", ["spans", "metrics"])
def test_the_loss_is_there_before_anything_is_lost(signal, endpoint, protocol):
    """As 0: an alert can only compare with what exists."""
    kit, plugin = watched(endpoint, protocol, metrics=["prometheus", "opentelemetry"])
    assert lost(plugin, signal) == 0
    kit.close()
