"""The metrics for Prometheus: on a registry, in multiprocess mode, and served at ``/metrics``."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    make_asgi_app,
    make_wsgi_app,
    start_http_server,
)
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from llmkit_plugins.errors import ConfigError
from llmkit_plugins.forks import new_lock
from llmkit_plugins.plugins.observability.instruments import Exemplar as Trace
from llmkit_plugins.plugins.observability.instruments import Family, Histogram, Relay
from llmkit_plugins.plugins.observability.later import NOTES, Later
from llmkit_plugins.plugins.observability.metrics import Metrics

_FAMILIES: dict[str, type[Metric]] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
_GAUGE_MODES = {"llmkit_circuit_state": "livemax"}
"""How gauges are merged across processes; all others are summed."""

_made: WeakKeyDictionary[CollectorRegistry, Metrics] = WeakKeyDictionary()
_making = new_lock()


def metrics_on(registry: CollectorRegistry, max_label_sets: int = 500) -> Metrics:
    """The metrics on *registry*, created on first use: all kits that use the registry share them."""
    with _making:
        metrics = _made.get(registry)
        if metrics is None:
            shared = multiprocess()
            metrics = Metrics(max_label_sets, Later(0 if shared else NOTES))
            if shared:
                _mirror(metrics, registry)
            else:
                registry.register(Exposition(metrics))
            _made[registry] = metrics
        return metrics


class Exposition(Collector):
    """Collects *metrics* for prometheus-client at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Every family with its samples."""
        self._metrics.later.settle()
        return (_exposed(family) for family in self._metrics)

    def describe(self) -> Iterator[Metric]:
        """The names, so that a clash with another collector is found at once."""
        return (_empty(family) for family in self._metrics)


def _empty(family: Family[Any]) -> Any:
    if family.kind == "histogram":
        return HistogramMetricFamily(family.name, family.documentation, labels=family.labels)
    return _FAMILIES[family.kind](family.name, family.documentation, labels=family.labels)  # type: ignore[call-arg]


def _exposed(family: Family[Any]) -> Metric:
    exposed = _empty(family)
    for values, child in family.children():
        if isinstance(child, Histogram):
            exposed.add_metric(values, list(_buckets(child)), child.total)
        else:
            exposed.add_metric(values, child.value)
    metric: Metric = exposed
    return metric


def _buckets(child: Histogram) -> Iterator[tuple[str, float, Exemplar | None]]:
    counts = list(child.counts)
    for place, (bound, count) in enumerate(zip((*child.bounds, float("inf")), accumulate(counts), strict=True)):
        told = child.exemplars.get(place)
        yield floatToGoString(bound), count, told and _exemplar(*told)  # type: ignore[no-untyped-call]


def _exemplar(value: float, trace: Trace) -> Exemplar:
    return Exemplar({"trace_id": trace.trace_id, "span_id": trace.span_id}, value, trace.unix_seconds)


# -- several processes ----------------------------------------------------------------------------------------------


def multiprocess() -> bool:
    """Whether prometheus-client's multiprocess mode is on: ``PROMETHEUS_MULTIPROC_DIR`` is set."""
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


def _mirror(metrics: Metrics, registry: CollectorRegistry) -> None:
    """Also write everything to prometheus-client's files, where the scraped process finds it."""
    for family in metrics:
        family.relay(_writer(family, registry, metrics.later))


def _writer(family: Family[Any], registry: CollectorRegistry, later: Later) -> Callable[[tuple[str, ...]], Relay]:
    said: dict[str, Any] = {
        "name": family.name,
        "documentation": family.documentation,
        "labelnames": family.labels,
        "registry": registry,
    }
    if family.kind == "histogram":
        histogram = PrometheusHistogram(buckets=family.bounds, **said)
        return lambda values: partial(later.note, _observe, histogram.labels(*values) if values else histogram)
    if family.kind == "counter":
        counter = Counter(**said)
        return lambda values: partial(later.note, (counter.labels(*values) if values else counter).inc)
    gauge = Gauge(multiprocess_mode=_GAUGE_MODES.get(family.name, "livesum"), **said)  # type: ignore[arg-type]
    return lambda values: partial(later.note, (gauge.labels(*values) if values else gauge).inc)


def _observe(histogram: Any, value: float, times: int = 1) -> None:
    """Like its own ``observe``, which takes 3 µs, but *times* times at once."""
    if times == 1:
        histogram.observe(value)
        return
    histogram._sum.inc(value * times)  # noqa: SLF001
    histogram._buckets[bisect_left(histogram._upper_bounds, value)].inc(times)  # noqa: SLF001


def scraped(registry: CollectorRegistry) -> CollectorRegistry:
    """The registry to serve: *registry*, or in multiprocess mode one that collects what all processes wrote."""
    if not multiprocess():
        return registry
    everybody = CollectorRegistry()
    MultiProcessCollector(everybody)  # type: ignore[no-untyped-call]
    return everybody


# -- serving --------------------------------------------------------------------------------------------------------


def wsgi_app(registry: CollectorRegistry) -> Callable[..., Iterable[bytes]]:
    """``/metrics`` of *registry* as a WSGI application."""
    app: Callable[..., Iterable[bytes]] = make_wsgi_app(scraped(registry))
    return app


def asgi_app(registry: CollectorRegistry) -> Callable[..., Any]:
    """``/metrics`` of *registry* as an ASGI application."""
    app: Callable[..., Any] = make_asgi_app(scraped(registry))
    return app


class MetricsServer:
    """Serves ``/metrics`` of *registry* from a thread. Raises ``ConfigError`` if the port is unavailable."""

    def __init__(self, registry: CollectorRegistry, port: int, address: str) -> None:
        try:
            self._server, self._thread = start_http_server(port, address, scraped(registry))
        except OSError as error:
            raise ConfigError(
                f"/metrics cannot be served on {address}:{port}: {error.strerror}",
                key="observability.metrics_port",
                right="a free port, or 0 for any",
            ) from None
        self.url = f"http://{address}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop serving."""
        if self._thread.is_alive():  # in a forked process nothing serves, so nothing would stop
            self._server.shutdown()
        self._server.server_close()
        self._thread.join()
