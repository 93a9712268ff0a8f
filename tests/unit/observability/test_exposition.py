"""The metrics as Prometheus sees them: text, exemplars, applications to mount, several processes."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from llmkit_plugins import Call
from llmkit_plugins.plugins.observability import Metrics, ObservabilityPlugin
from llmkit_plugins.plugins.observability.exposition import metrics_on
from llmkit_plugins.testing import MODES, ScriptedBackend, drive


def samples(text: str) -> dict[tuple[str, frozenset], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("mode", MODES)
def test_the_text_is_openmetrics(mode, make_kit, registry):
    """prometheus-client's own parser reads it, and finds the values that were recorded."""
    drive(make_kit(), Call("hi"), ScriptedBackend(), mode)
    found = samples(generate_latest(registry).decode())
    who = {("provider", "p1"), ("model", "m1")}
    assert found["llmkit_request_tokens_total", frozenset({*who, ("direction", "input")})] == 5
    assert found["llmkit_attempt_duration_seconds_bucket", frozenset({*who, ("outcome", "ok"), ("le", "0.01")})] == 1
    assert found["llmkit_request_cost_total", frozenset(who)] == pytest.approx((5 * 1.0 + 3 * 2.0) / 1e6)


def test_a_traced_value_carries_its_trace(make_kit, registry, exporter):
    """The exemplar of a bucket is the trace and span of the request, whatever the histogram is of."""
    drive(make_kit(), Call("hi"), ScriptedBackend(), "stream")
    (request,) = [span for span in exporter.get_finished_spans() if span.parent is None]
    exemplars = {
        sample.name: sample.exemplar
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if sample.exemplar
    }
    per_output = ("time_per_output_token", "time_per_output_chunk")
    timed = ("request_duration", "attempt_duration", "time_to_first_token", *per_output)
    assert exemplars.keys() == {f"llmkit_{name}_seconds_bucket" for name in timed}
    ids = request.context
    for exemplar in exemplars.values():
        assert exemplar.labels == {"trace_id": f"{ids.trace_id:032x}", "span_id": f"{ids.span_id:016x}"}


def test_a_name_that_is_taken_is_found_at_once(registry):
    """prometheus-client refuses two collectors of one name when the second comes, not when somebody scrapes."""
    Counter("llmkit_refusals_total", "somebody else's", registry=registry)
    with pytest.raises(ValueError, match="llmkit_refusals"):
        metrics_on(registry)


def test_nothing_is_exposed_that_nobody_recorded(registry):
    """Before the first call there is the number of active requests, and it is 0."""
    metrics_on(registry)
    assert [(s.name, s.value) for family in registry.collect() for s in family.samples] == [
        ("llmkit_request_active", 0)
    ]


async def test_an_asgi_application_to_mount(make_kit, registry):
    """``asgi_app()`` answers with the metrics, as OpenMetrics where that is asked for."""
    kit = make_kit()
    drive_in = httpx.ASGITransport(kit.plugins["observability"].asgi_app())
    async with httpx.AsyncClient(transport=drive_in, base_url="http://app") as client:
        answer = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert "llmkit_request_active 0.0" in answer.text
    assert answer.text.endswith("# EOF\n")


def test_a_wsgi_application_to_mount(make_kit):
    """``wsgi_app()`` answers with the metrics."""
    transport = httpx.WSGITransport(make_kit().plugins["observability"].wsgi_app())
    with httpx.Client(transport=transport, base_url="http://app") as client:
        assert "llmkit_request_active 0.0" in client.get("/metrics").text


def test_prometheus_can_be_left_out():
    """What does not go to Prometheus is on no registry; with no destination nothing is counted."""
    registry = CollectorRegistry()
    plugin = ObservabilityPlugin(registry, metrics=["opentelemetry"], traces=False)
    assert isinstance(plugin.recorder.metrics, Metrics)
    assert ObservabilityPlugin(registry, metrics=[], traces=False).recorder.metrics is None
    assert list(registry.collect()) == []


WORKER = """
from prometheus_client import CollectorRegistry
from llmkit_plugins import Call, LLMKit, Target
from llmkit_plugins.events import CircuitChanged
from llmkit_plugins.plugins.observability import ObservabilityPlugin
from llmkit_plugins.testing import ManualClock, Pause, ScriptedBackend
kit = LLMKit([ObservabilityPlugin(CollectorRegistry())], [Target("a", "p", "m", 1.0, 2.0)])
kit.call(Call("hi"), ScriptedBackend())
kit.events.publish(CircuitChanged("a", "closed", "open", "test"))
clock = ManualClock()
kit = LLMKit([ObservabilityPlugin(kit.plugins["observability"].registry)], kit.targets, clock=clock)
list(kit.stream(Call("hi"), ScriptedBackend(default=["x", Pause(0.5), "y", Pause(1.0), "z"], sleep=clock.sleep)))
"""
SCRAPED = """
from llmkit_plugins.plugins.observability.exposition import scraped
from prometheus_client import CollectorRegistry, generate_latest
print(generate_latest(scraped(CollectorRegistry())).decode())
"""


def test_several_processes_are_scraped_as_one(tmp_path):
    """In prometheus-client's multiprocess mode, whoever is scraped tells what all of them counted."""
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PATH": ""}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", WORKER], env=environment, check=True)
    text = subprocess.run(
        [sys.executable, "-c", SCRAPED], env=environment, check=True, capture_output=True, text=True
    ).stdout
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#") and line)
    assert lines['llmkit_request_tokens_total{direction="input",model="m",provider="p"}'] == "10.0"
    assert lines['llmkit_request_duration_seconds_count{model="m",outcome="ok",provider="p"}'] == "4.0"
    chunks = 'llmkit_time_per_output_chunk_seconds_{}{{{}model="m",provider="p"}}'
    assert lines[chunks.format("count", "")] == "4.0"
    assert lines[chunks.format("sum", "")] == "3.0"
    buckets = {bound: lines[chunks.format("bucket", f'le="{bound}",')] for bound in ("0.64", "1.28")}
    assert buckets == {"0.64": "0.0", "1.28": "4.0"}
    assert lines['llmkit_circuit_transitions_total{state="open",target="a"}'] == "2.0"
