"""The Prometheus metrics, and where they are served."""

from __future__ import annotations

from threading import Lock
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from llmkit_plugins.errors import ConfigError

SECONDS = tuple(0.01 * 2**k for k in range(14))
"""Buckets of durations: those of the GenAI semantic conventions, 10 ms to 82 s."""

_made: WeakKeyDictionary[CollectorRegistry, Metrics] = WeakKeyDictionary()
_making = Lock()


class Metrics:
    """The metric families on one registry. Kits that use the same registry share them: see :func:`metrics_on`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.request_duration = Histogram(
            "llmkit_request_duration_seconds",
            "Seconds from the request to its end, whatever the end, by who answered last.",
            ("provider", "model", "outcome"),
            buckets=SECONDS,
            registry=registry,
        )
        self.request_tokens = Counter(
            "llmkit_request_tokens",
            "Tokens that providers counted, by direction (input, output); shared answers count once.",
            ("provider", "model", "direction"),
            registry=registry,
        )
        self.request_active = Gauge(
            "llmkit_request_active", "Requests that have begun and not ended.", registry=registry
        )
        self.provider_errors = Counter(
            "llmkit_provider_errors",
            "Attempts that a provider failed, by kind of error.",
            ("provider", "model", "error_type"),
            registry=registry,
        )


def metrics_on(registry: CollectorRegistry) -> Metrics:
    """The metrics on *registry*, made the first time somebody asks."""
    with _making:
        metrics = _made.get(registry)
        if metrics is None:
            metrics = _made[registry] = Metrics(registry)
        return metrics


class MetricsServer:
    """Serves ``/metrics`` of *registry* from a thread. Raises ``ConfigError`` where the port cannot be had."""

    def __init__(self, registry: CollectorRegistry, port: int, address: str) -> None:
        try:
            self._server, self._thread = start_http_server(port, address, registry)
        except OSError as error:
            raise ConfigError(
                f"/metrics cannot be served on {address}:{port}: {error.strerror}",
                key="observability.metrics_port",
                right="a free port, or 0 for any",
            ) from None
        self.url = f"http://{address}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def error_type(kind: str | None, error: BaseException | None) -> str:
    """The ``error_type`` of a failed attempt: its kind, else the class of the error."""
    return kind or (type(error).__qualname__ if error is not None else "unknown")
