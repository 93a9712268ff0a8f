"""Delivery of spans: bounded, beside the callers, and what is lost is counted."""

from __future__ import annotations

import threading

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from llmkit_plugins import ConfigError
from llmkit_plugins.plugins.observability import ObservabilityPlugin, otlp
from llmkit_plugins.plugins.observability.otlp import Delivery


class Exporter(SpanExporter):
    """Does with each batch what it is told, once it is let."""

    def __init__(self, result: SpanExportResult | Exception = SpanExportResult.SUCCESS) -> None:
        self.result, self.free, self.got = result, threading.Event(), 0
        self.shut = threading.Event()

    def export(self, spans):
        while not self.free.wait(0.01):
            if self.shut.is_set():
                return SpanExportResult.FAILURE
        if isinstance(self.result, Exception):
            raise self.result
        self.got += len(spans) if self.result is SpanExportResult.SUCCESS else 0
        return self.result

    def shutdown(self):
        self.shut.set()


def sent(exporter: Exporter, spans: int, queue: int = 8) -> tuple[Delivery, list[int]]:
    """As many spans as asked have ended."""
    lost: list[int] = []
    delivery = Delivery(exporter, lost.append, queue, every_seconds=0.01)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(delivery)
    tracer = provider.get_tracer("test")
    for _ in range(spans):
        tracer.start_span("span").end()
    return delivery, lost


def test_all_arrive():
    """What fits is delivered, at the latest when it closes."""
    exporter = Exporter()
    exporter.free.set()
    delivery, lost = sent(exporter, 5)
    delivery.close(5.0)
    assert (exporter.got, sum(lost)) == (5, 0)


def test_a_full_queue_loses_the_newest():
    """While the receiver is slow, so many wait; the rest is lost at once and counted."""
    exporter = Exporter()
    delivery, lost = sent(exporter, 20, queue=8)
    assert delivery.waiting == 8
    assert sum(lost) == 12
    exporter.free.set()
    delivery.close(5.0)
    assert (exporter.got, sum(lost)) == (8, 12)


@pytest.mark.parametrize("result", [SpanExportResult.FAILURE, OSError("down")])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_is_refused_is_counted(result):
    """A receiver that is down or refuses loses the batch."""
    exporter = Exporter(result)
    exporter.free.set()
    delivery, lost = sent(exporter, 5)
    delivery.close(5.0)
    assert (exporter.got, sum(lost)) == (0, 5)


def test_closing_waits_for_nobody_for_long():
    """A receiver that never answers holds the closing up for no more than it may; what it did not take is lost."""
    exporter = Exporter()
    delivery, lost = sent(exporter, 5)
    delivery.close(seconds=0.05)
    assert exporter.shut.is_set()
    assert (exporter.got, sum(lost)) == (0, 5)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_missing_extra_is_named(protocol, monkeypatch):
    """Without the exporter the error says what to install."""

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(otlp, "import_module", missing)
    with pytest.raises(ConfigError, match=r"observability\.otlp_endpoint.*llmkit-plugins\[otlp\]"):
        ObservabilityPlugin(own_registry=True, otlp_endpoint="http://127.0.0.1:1", otlp_protocol=protocol)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4317", "ftp://host"])
def test_an_endpoint_is_a_url(endpoint):
    """The error names the setting."""
    with pytest.raises(ConfigError, match=r"otlp_endpoint: .*http://host:4317"):
        ObservabilityPlugin(own_registry=True, otlp_endpoint=endpoint)


def test_spans_and_metrics_are_delivered_at_once_in_the_end():
    """Where nobody receives, closing takes as long as for one of the two."""
    metrics_too, in_time = threading.Event(), []

    class Meters:
        def shutdown(self, timeout_millis):
            metrics_too.set()

    class Spans:
        def close(self, seconds):
            in_time.append(metrics_too.wait(seconds))

    receiver = otlp.Receiver("http://127.0.0.1:9", "grpc")
    receiver._delivery, receiver._meters = Spans(), Meters()
    receiver.close()
    assert in_time == [True]
