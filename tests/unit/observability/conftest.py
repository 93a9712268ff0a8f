"""A kit with the observability plugin on a clock moved by hand, and what it recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from llmkit_plugins import LLMKit, Target
from llmkit_plugins.plugins.observability import ObservabilityPlugin
from llmkit_plugins.testing import ManualClock

A = Target("a", "p1", "m1", 1.0, 2.0)
B = Target("b", "p2", "m2", 3.0, 4.0)


@pytest.fixture
def clock() -> ManualClock:
    """Stands at 100 s."""
    return ManualClock(100.0)


@pytest.fixture
def registry() -> CollectorRegistry:
    """Where the metrics are."""
    return CollectorRegistry()


@pytest.fixture
def value(registry) -> Callable[..., float | None]:
    """The value of a sample, None where there is none: ``value("llmkit_request_active")``."""
    return lambda name, **labels: registry.get_sample_value(name, labels)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """Where the spans are, once they ended."""
    return InMemorySpanExporter()


@pytest.fixture
def tracers(exporter) -> Iterator[TracerProvider]:
    """A provider whose spans go to ``exporter``."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


@pytest.fixture
def spans(exporter) -> Callable[[], dict[str, ReadableSpan]]:
    """The spans that ended, by name; two of one name would be a mistake of the test."""

    def by_name() -> dict[str, ReadableSpan]:
        ended = exporter.get_finished_spans()
        assert len({span.name for span in ended}) == len(ended)
        return {span.name: span for span in ended}

    return by_name


@pytest.fixture
def make_kit(clock, registry, tracers) -> Iterator[Callable[..., LLMKit]]:
    """Makes a kit: ``make_kit(another_plugin, targets=[...], setting=...)``; it raises what a plugin does wrong."""
    made: list[LLMKit] = []

    def make(*others: Any, targets: Any = (A, B), **settings: Any) -> LLMKit:
        plugin = ObservabilityPlugin(registry, tracer_provider=tracers, **settings)
        kit = LLMKit([plugin, *others], targets, clock=clock, on_plugin_error="raise")
        made.append(kit)
        return kit

    yield make
    for kit in made:
        kit.close()
