"""Spans and metrics to an OTLP receiver, by providers of our own: bounded, off the callers' path, losses counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from threading import Thread
from typing import Any, Literal

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from llmkit_plugins.errors import ConfigError
from llmkit_plugins.forks import in_child, new_lock

Protocol = Literal["grpc", "http"]

Lost = Callable[[int], Any]
"""Called with the number of spans, or metric collections, that no receiver accepted."""

QUEUE = 4096
"""How many spans may wait; further ones are lost."""

CLOSE_SECONDS = 5.0
"""How long closing may take to deliver what is waiting."""


class Delivery(BatchSpanProcessor):
    """Sends spans with *exporter* from its own thread. *lost* is called with how many no receiver accepted: the queue
    was full, the receiver was down or refused them, or they were still waiting on close."""

    def __init__(self, exporter: SpanExporter, lost: Lost, queue: int = QUEUE, every_seconds: float = 1.0) -> None:
        self._exporter = _Watched(exporter, lost)
        self._queue, self._lost, self._ended = queue, lost, 0
        self._counting = new_lock()
        super().__init__(
            self._exporter,
            max_queue_size=queue,
            schedule_delay_millis=every_seconds * 1000,
            max_export_batch_size=min(512, queue),
        )
        in_child(self, Delivery._forked)

    @property
    def waiting(self) -> int:
        """How many spans are waiting."""
        return self._ended - self._exporter.taken

    def _forked(self) -> None:
        """The SDK leaves what waited to the parent process."""
        self._ended = self._exporter.taken

    def on_end(self, span: ReadableSpan) -> None:
        """Queue *span*, or lose it."""
        with self._counting:
            full = self.waiting >= self._queue
            self._ended += not full
        if full:
            self._lost(1)
        else:
            super().on_end(span)

    def close(self, seconds: float) -> None:
        """Deliver what is waiting, for at most *seconds*; the rest is lost."""
        closing = Thread(target=self.shutdown, name="llmkit-otlp-close", daemon=True)
        closing.start()
        closing.join(seconds)
        if closing.is_alive():
            self._exporter.give_up()
        if left := self._exporter.close_at(self._ended):
            self._lost(left)


class _Watched(SpanExporter):
    """Wraps *exporter* and tracks what becomes of the spans."""

    def __init__(self, exporter: SpanExporter, lost: Lost) -> None:
        self._exporter, self._lost = exporter, lost
        self.taken = 0
        self._closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if not self._closed:
                self.taken += len(spans)
                if result is not SpanExportResult.SUCCESS:
                    self._lost(len(spans))
        return result

    def give_up(self) -> None:
        """Stop retrying."""
        self._exporter.shutdown()

    def close_at(self, ended: int) -> int:
        """Stop counting; returns how many of *ended* were never accepted."""
        self._closed = True
        return ended - self.taken

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Collections:
    """Tracks what becomes of the metric collections that *exporter* sends. The next one has the sums again."""

    def __init__(self, exporter: MetricExporter, lost: Lost) -> None:
        self._export, self._lost = exporter.export, lost
        self._sending, self._closed = 0, False
        exporter.export = self.export  # type: ignore[method-assign]  # the reader needs more of it than its methods

    def export(self, *args: Any, **kwargs: Any) -> MetricExportResult:
        self._sending += 1
        result = MetricExportResult.FAILURE
        try:
            result = self._export(*args, **kwargs)
        finally:
            self._sending -= 1
            if result is not MetricExportResult.SUCCESS and not self._closed:
                self._lost(1)
        return result

    def close(self) -> None:
        """Stop counting: what is still being sent is lost."""
        self._closed = True
        if self._sending:
            self._lost(self._sending)


class Receiver:
    """The OTLP receiver at *endpoint* (``http://host:4317``). Raises ``ConfigError`` if the extra ``otlp`` is not
    installed."""

    def __init__(self, endpoint: str, protocol: Protocol) -> None:
        self._endpoint, self._protocol = endpoint.rstrip("/"), protocol
        self._delivery: Delivery | None = None
        self._meters: MeterProvider | None = None
        self._collections: _Collections | None = None

    def tracer_provider(self, lost: Lost) -> TracerProvider:
        """A provider whose spans go there."""
        provider = TracerProvider(shutdown_on_exit=False)
        self._delivery = Delivery(self._exporter("trace", "OTLPSpanExporter", "/v1/traces"), lost)
        provider.add_span_processor(self._delivery)
        return provider

    def meter_provider(self, lost: Lost) -> MeterProvider:
        """A provider whose metrics go there, once a minute (``OTEL_METRIC_EXPORT_INTERVAL``)."""
        exporter: MetricExporter = self._exporter("metric", "OTLPMetricExporter", "/v1/metrics")
        self._collections = _Collections(exporter, lost)
        self._meters = MeterProvider([PeriodicExportingMetricReader(exporter)], shutdown_on_exit=False)
        return self._meters

    def close(self) -> None:
        """Deliver what is waiting, spans and metrics in parallel, in a few seconds at most."""
        last_metrics = None
        if self._meters is not None:
            last_metrics = Thread(
                target=self._meters.shutdown, args=[CLOSE_SECONDS * 1000], name="llmkit-otlp-metrics", daemon=True
            )
            last_metrics.start()
        if self._delivery is not None:
            self._delivery.close(CLOSE_SECONDS)
        if last_metrics is not None:
            last_metrics.join(CLOSE_SECONDS)
        if self._collections is not None:
            self._collections.close()

    def _exporter(self, signal: str, name: str, path: str) -> Any:
        endpoint = self._endpoint if self._protocol == "grpc" else self._endpoint + path
        try:
            module = import_module(f"opentelemetry.exporter.otlp.proto.{self._protocol}.{signal}_exporter")
        except ImportError as missing:
            raise ConfigError(
                f"the OTLP exporter for {self._protocol} is not installed",
                key="observability.otlp_endpoint",
                right="pip install 'llmkit-plugins[otlp]'",
            ) from missing
        return getattr(module, name)(endpoint=endpoint)
