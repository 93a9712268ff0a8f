"""The plugin: its hooks only delegate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import TracerProvider
from prometheus_client import REGISTRY, CollectorRegistry

from llmkit_plugins.call import Attempt, Call, Response
from llmkit_plugins.events import CircuitChanged, CircuitsExhausted, LimitReached, Routed, StoreUnreachable
from llmkit_plugins.hookspecs import hookimpl
from llmkit_plugins.plugins.observability.config import ObservabilityConfig
from llmkit_plugins.plugins.observability.content import Content, Redact
from llmkit_plugins.plugins.observability.exposition import MetricsServer, asgi_app, metrics_on, wsgi_app
from llmkit_plugins.plugins.observability.metrics import Metrics
from llmkit_plugins.plugins.observability.observability import Observability
from llmkit_plugins.plugins.observability.otel_metrics import GenAI, export
from llmkit_plugins.plugins.observability.otlp import Lost, Receiver
from llmkit_plugins.plugins.observability.runs import RunSpans
from llmkit_plugins.plugins.observability.tracing import SCOPE, ParentOf, Tracing

if TYPE_CHECKING:
    from llmkit_plugins.kit import LLMKit


class ObservabilityPlugin:
    """Records every call and attempt: as metrics for Prometheus and OpenTelemetry, as spans, and in the log.

    *registry*, *tracer_provider* and *meter_provider* default to those of the process. *parent* returns the parent span
    of a call if no span is current. *redact* is given every text of a prompt or answer before it is recorded.
    *settings* are those of :class:`ObservabilityConfig`. Raises ``ConfigError``.
    """

    Config = ObservabilityConfig
    name = "observability"

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        parent: ParentOf | None = None,
        redact: Redact | None = None,
        **settings: Any,
    ) -> None:
        self.config = config = ObservabilityConfig(**settings)
        self.registry = registry or (CollectorRegistry() if config.own_registry else REGISTRY)
        self._receiver = Receiver(config.otlp_endpoint, config.otlp_protocol) if config.otlp_endpoint else None
        self._server: MetricsServer | None = None
        metrics = self._metrics()
        self.recorder = Observability(
            metrics,
            tracing=self._tracing(tracer_provider, parent, redact, metrics) if config.traces else None,
            genai=self._genai(meter_provider, metrics),
        )
        if config.traces and (config.propagate_trace or config.content):
            self.llmkit_pre_attempt = hookimpl(lambda call, attempt: self.recorder.sending(call, attempt))

    def _metrics(self) -> Metrics | None:
        if "prometheus" in self.config.metrics:
            return metrics_on(self.registry, self.config.max_label_sets)
        return Metrics(self.config.max_label_sets) if self.config.metrics else None

    def _genai(self, provider: MeterProvider | None, metrics: Metrics | None) -> GenAI | None:
        if metrics is None or "opentelemetry" not in self.config.metrics:
            return None
        if provider is None:
            receiver = self._receiver
            provider = (
                get_meter_provider() if receiver is None else receiver.meter_provider(_noting(metrics, "metrics"))
            )
        return export(metrics, provider, SCOPE)

    def _tracing(
        self,
        provider: TracerProvider | None,
        parent: ParentOf | None,
        redact: Redact | None,
        metrics: Metrics | None,
    ) -> Tracing:
        if provider is None and self._receiver is not None:
            metrics = metrics or Metrics()
            provider = self._receiver.tracer_provider(_noting(metrics, "spans"))
        config = self.config
        content = Content(config.content_characters, redact) if config.content else None
        return Tracing(
            provider, ratio=config.trace_ratio, content=content, propagates=config.propagate_trace, parent=parent
        )

    # -- /metrics ---------------------------------------------------------------------------------------------------

    @property
    def metrics_url(self) -> str | None:
        """The URL at which ``/metrics`` is served; None if it is not."""
        return None if self._server is None else self._server.url

    def asgi_app(self) -> Callable[..., Any]:
        """``/metrics`` as an ASGI application, to be mounted in yours."""
        return asgi_app(self.registry)

    def wsgi_app(self) -> Callable[..., Iterable[bytes]]:
        """``/metrics`` as a WSGI application, to be mounted in yours."""
        return wsgi_app(self.registry)

    # -- the application's runs -------------------------------------------------------------------------------------

    @property
    def runs(self) -> RunSpans | None:
        """What a framework's adapter tells of the runs that calls are made in; None where there are no spans."""
        tracing = self.recorder.tracing
        return None if tracing is None else tracing.runs

    # -- lifecycle --------------------------------------------------------------------------------------------------

    def attach(self, kit: LLMKit) -> None:
        """Tell time by the clock of *kit*, listen to its events, and begin to serve."""
        recorder, config = self.recorder, self.config
        recorder.clock = kit.clock
        kit.events.subscribe(LimitReached, recorder.limited)
        kit.events.subscribe(StoreUnreachable, recorder.store_unreachable)
        kit.events.subscribe(CircuitChanged, recorder.circuit_changed)
        kit.events.subscribe(CircuitsExhausted, recorder.circuits_exhausted)
        kit.events.subscribe(Routed, recorder.routed)
        kit.on_bug(recorder.plugin_failed)
        if config.time_hooks_every and recorder.metrics is not None:
            kit.time_hooks(recorder.hook_took, every=config.time_hooks_every)
        if not kit.targets or any(target.output_price is None for target in kit.targets):
            recorder.prices.load()
        if config.metrics_port is not None and self._server is None:
            self._server = MetricsServer(self.registry, config.metrics_port, config.metrics_address)

    def close(self) -> None:
        """Stop serving ``/metrics``, and deliver what waits for the OTLP receiver."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        if self.recorder.metrics is not None:
            self.recorder.metrics.later.settle()
        if self._receiver is not None:
            self._receiver.close()

    # -- hooks: with all arguments in order, as the engine calls them directly --------------------------------------

    @hookimpl
    def llmkit_pre_request(self, call: Call) -> None:
        self.recorder.begun(call)

    @hookimpl
    def llmkit_post_attempt(self, call: Call, attempt: Attempt) -> None:
        self.recorder.attempted(call, attempt)

    @hookimpl
    def llmkit_post_response(self, call: Call, response: Response) -> None:  # noqa: ARG002
        self.recorder.ended(call)

    @hookimpl
    def llmkit_error(self, call: Call, error: BaseException) -> None:
        self.recorder.ended(call, error)


def _noting(metrics: Metrics, signal: str) -> Lost:
    """Counts losses of *signal*, from any thread, starting at 0."""
    lost = metrics.telemetry_lost.of(signal)
    return lambda count: lost.add(count)
