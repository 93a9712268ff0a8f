"""What the metrics say of a thousand mixed calls, held against what the providers counted themselves."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack, aclosing, suppress
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from llmkit_plugins import Call, LLMKit, Share, Target, hookimpl
from llmkit_plugins.plugins.observability import ObservabilityPlugin
from llmkit_plugins.testing import FakeProvider, Recorder
from llmkit_plugins.testing.fake_provider import Fault

CALLS = 1000
PRICES = {"a": (2.5, 10.0), "b": (0.15, 0.6), "slow": (1.0, 1.0), "left": (1.0, 1.0)}


class ShareByKey:
    """Shares where the call's metadata names a key."""

    @hookimpl
    def llmkit_pre_request(self, call):
        return Share(call.metadata["share"]) if "share" in call.metadata else None


class Samples:
    """The samples of the exposed text, as prometheus-client's own parser reads them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        families = text_string_to_metric_families(generate_latest(registry).decode())
        self._samples = [sample for family in families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        wanted = labels.items()
        return sum(one.value for one in self._samples if one.name == name and wanted <= one.labels.items())


class Points:
    """The points that one collection of OpenTelemetry's finds."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        (resource,) = reader.get_metrics_data().resource_metrics
        self._points = {
            metric.name: metric.data.data_points for scope in resource.scope_metrics for metric in scope.metrics
        }

    def sum(self, name: str, **attributes: str) -> float:
        return sum(getattr(point, "sum", getattr(point, "value", 0)) for point in self._of(name, attributes))

    def count(self, name: str) -> int:
        return sum(point.count for point in self._of(name, {}))

    def _of(self, name: str, attributes: dict[str, str]) -> list[Any]:
        return [point for point in self._points[name] if attributes.items() <= dict(point.attributes).items()]


@pytest.fixture
def providers():
    """Two that answer and fail now and then, one that never gets to answer, one whose answers nobody reads."""
    settings = {
        "a": {
            "reply": "one two three",
            "faults": (Fault("server_error", probability=0.1), Fault("rate_limit", probability=0.05)),
        },
        "b": {"reply": "four five six seven", "faults": (Fault("overloaded", probability=0.2),)},
        "slow": {"first_token_seconds": 600.0},
        "left": {"reply": "one two three four five", "per_token_seconds": 0.002},
    }
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                FakeProvider(input_price=PRICES[name][0], output_price=PRICES[name][1], seed=7, **settings[name])
            )
            for name in PRICES
        }


def call_number(n: int) -> Call:
    """Whole, streamed, shared, cancelled and abandoned calls, in turn."""
    kind = n % 10
    model = {8: "slow", 9: "left"}.get(kind, "chat")
    metadata = {"share": n // 50} if kind in (6, 7) else {}
    words = " ".join(["word"] * (n % 7 + 1))
    return Call([{"role": "user", "content": words}], model=model, metadata=metadata)


async def make(kit: LLMKit, backend, n: int, free: asyncio.Semaphore) -> None:
    call = call_number(n)
    async with free:
        with suppress(Exception):
            if n % 10 in (4, 5):
                [_ async for _ in kit.astream(call, backend)]
            elif n % 10 == 8:
                async with asyncio.timeout(0.005):
                    await kit.acall(call, backend)
            elif n % 10 == 9:
                async with aclosing(kit.astream(call, backend)) as stream:
                    await anext(stream)
            else:
                await kit.acall(call, backend)


async def test_a_thousand_mixed_calls(providers, openai_backend):
    """Right to the token and the cent, for each provider, in both sinks; every call and attempt is counted once, by its
    end, and has one span that ended."""
    registry, recorder = CollectorRegistry(), Recorder()
    targets = [
        Target(name, name, f"model-{name}", *PRICES[name], serves=frozenset({"chat" if len(name) == 1 else name}))
        for name in PRICES
    ]
    reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
    meters, tracers = MeterProvider([reader], shutdown_on_exit=False), TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    observing = ObservabilityPlugin(
        registry, metrics=["prometheus", "opentelemetry"], meter_provider=meters, tracer_provider=tracers
    )
    kit = LLMKit([observing, recorder, ShareByKey()], targets, on_plugin_error="raise")
    backend = openai_backend(**{name: provider.url for name, provider in providers.items()})
    free = asyncio.Semaphore(50)
    await asyncio.gather(*[make(kit, backend, n, free) for n in range(CALLS)])
    await kit.aclose()
    await backend.aclose()
    samples = Samples(registry)

    for name in ("a", "b"):
        stats = providers[name].stats
        who = {"provider": name, "model": f"model-{name}"}
        assert samples.sum("llmkit_request_tokens_total", **who, direction="input") == stats.prompt_tokens > 0
        assert samples.sum("llmkit_request_tokens_total", **who, direction="output") == stats.completion_tokens > 0
        assert samples.sum("llmkit_request_cost_total", **who) == pytest.approx(stats.cost, abs=1e-9)
        failed = sum(count for status, count in stats.by_status.items() if status >= 400)
        assert samples.sum("llmkit_provider_errors_total", **who) == failed > 0
        assert samples.sum("llmkit_attempt_duration_seconds_count", **who, outcome="ok") == stats.by_status[200]
    assert samples.sum("llmkit_provider_errors_total", provider="a", error_type="rate_limit") > 0

    assert samples.sum("llmkit_attempt_duration_seconds_count", provider="slow", outcome="cancelled") == CALLS / 10
    assert samples.sum("llmkit_request_duration_seconds_count", provider="left", outcome="cancelled") == CALLS / 10
    assert samples.sum("llmkit_request_cost_total", provider="left") == 0  # nobody was told what it used

    assert samples.sum("llmkit_request_duration_seconds_count") == CALLS == recorder.counts["request"]
    for outcome in ("ok", "error", "cancelled"):
        shared = recorder.counts["request shared"] if outcome == "ok" else 0
        counted = samples.sum("llmkit_request_duration_seconds_count", outcome=outcome)
        assert counted == recorder.counts[f"request {outcome}"] + shared > 0
        attempts = samples.sum("llmkit_attempt_duration_seconds_count", outcome=outcome)
        assert attempts == recorder.counts[f"attempt {outcome}"] > 0
    saved = samples.sum("llmkit_upstream_calls_saved_total", by="sharing")
    assert saved == recorder.counts["request shared"] > 0
    assert samples.sum("llmkit_request_active") == 0
    assert not recorder.open
    points = Points(reader)
    for name in ("a", "b"):
        told, stats = {"gen_ai.provider.name": name}, providers[name].stats
        assert points.sum("gen_ai.client.token.usage", **told, **{"gen_ai.token.type": "input"}) == stats.prompt_tokens
        assert points.sum("llmkit.request_tokens", **told, direction="output") == stats.completion_tokens
        assert points.sum("llmkit.request_cost", **told) == pytest.approx(stats.cost, abs=1e-9)
    assert points.count("gen_ai.client.operation.duration") == recorder.counts["attempt"]
    assert points.count("llmkit.request_duration") == CALLS
    spans = exporter.get_finished_spans()
    assert len({span.context.span_id for span in spans}) == len(spans) == CALLS + recorder.counts["attempt"]
    ended = Counter(
        ("attempt" if span.kind is SpanKind.CLIENT else "request", span.attributes["llmkit.outcome"]) for span in spans
    )
    for outcome in ("ok", "error", "cancelled"):
        for what in ("request", "attempt"):
            counted = samples.sum(f"llmkit_{what}_duration_seconds_count", outcome=outcome)
            assert ended[what, outcome] == counted > 0
    meters.shutdown()
    tracers.shutdown()
