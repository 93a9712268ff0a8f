"""The plugin in a kit: the laws hold for it, its settings are checked, its parts can be left out."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from llmkit_plugins import Call, ConfigError, LLMKit, Target
from llmkit_plugins.events import CircuitChanged, CircuitsExhausted, LimitReached, Routed, StoreUnreachable
from llmkit_plugins.plugins.observability import ObservabilityPlugin
from llmkit_plugins.testing import MODES, PluginConformance, ScriptedBackend, drive


class TestObservability(PluginConformance):
    """The laws, with everything on."""

    def make_plugin(self):
        self.registry, self.exporter = CollectorRegistry(), InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        return ObservabilityPlugin(
            self.registry, tracer_provider=provider, propagate_trace=True, content=True, time_hooks_every=1
        )

    @pytest.fixture(autouse=True)
    def at_rest(self):
        """When a test is over, no request is active and no span has ended twice."""
        yield
        if registry := getattr(self, "registry", None):
            assert registry.get_sample_value("llmkit_request_active") == 0
            ended = [span.context.span_id for span in self.exporter.get_finished_spans()]
            assert len(set(ended)) == len(ended)


@pytest.mark.parametrize("mode", MODES)
def test_with_everything_off(mode):
    """It is there, and does nothing."""
    registry = CollectorRegistry()
    plugin = ObservabilityPlugin(registry, metrics=[], traces=False, time_hooks_every=0)
    kit = LLMKit([plugin], [Target("a", "p", "m", 1.0, 2.0)], on_plugin_error="raise")
    assert drive(kit, call := Call("hi"), ScriptedBackend(), mode) == "abc"
    assert list(registry.collect()) == []
    assert call.state == {}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("metrics", ["statsd"]),
        ("trace_ratio", 1.5),
        ("max_label_sets", 0),
        ("content_characters", 0),
        ("otlp_protocol", "udp"),
        ("time_hooks_every", -1),
        ("metric_port", 9464),
    ],
)
def test_a_wrong_setting_is_named(setting, value):
    """Unknown, out of range or of the wrong kind: the error names it."""
    with pytest.raises(ConfigError, match=setting):
        ObservabilityPlugin(**{setting: value})


def test_the_price_list_is_read_before_the_first_call(monkeypatch):
    """Where a target has no price of its own; else it is not needed."""
    for target, reads in ((Target("a", "p", "m", 1.0, 2.0), 0), (Target("a", "p", "m"), 1)):
        plugin, read = ObservabilityPlugin(own_registry=True), []
        monkeypatch.setattr(plugin.recorder.prices, "load", lambda read=read: read.append(True))
        LLMKit([plugin], [target])
        assert len(read) == reads


@pytest.mark.parametrize("settings", [{"metrics": ()}, {"traces": False}, {"metrics": (), "traces": False}], ids=str)
def test_what_is_off_is_missed_by_nobody(settings, registry):
    """Without metrics, without spans, without both: whatever happens, nothing of the plugin's fails."""
    kit = LLMKit([ObservabilityPlugin(registry, time_hooks_every=1, **settings)], [Target("a", "p", "m")])
    call = Call("hi")
    for event in (
        LimitReached(call, "per user", "waited", 1.0),
        StoreUnreachable(call, "redis"),
        CircuitChanged("a", "closed", "open", "why"),
        CircuitsExhausted(call, ("a",)),
        Routed(call, kit.targets[0], "best", 1.0),
    ):
        kit.events.publish(event)
    kit.call(call, ScriptedBackend())
    list(kit.stream(Call("hi"), ScriptedBackend()))
    kit.close()
    assert not kit.bugs
