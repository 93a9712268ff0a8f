"""The hooks: they only translate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY, CollectorRegistry

from llmkit_plugins.call import Attempt, Call
from llmkit_plugins.hookspecs import hookimpl
from llmkit_plugins.plugins.observability.config import ObservabilityConfig
from llmkit_plugins.plugins.observability.metrics import MetricsServer, metrics_on
from llmkit_plugins.plugins.observability.observability import Observability

if TYPE_CHECKING:
    from llmkit_plugins.kit import LLMKit


class ObservabilityPlugin:
    """Counts and times every call and attempt on a Prometheus registry, and serves ``/metrics`` where asked to.

    *registry* is a registry of yours; *settings* are those of :class:`ObservabilityConfig`. Raises ``ConfigError``.
    """

    Config = ObservabilityConfig
    name = "observability"

    def __init__(self, registry: CollectorRegistry | None = None, **settings: Any) -> None:
        self.config = ObservabilityConfig(**settings)
        self.registry = registry or (CollectorRegistry() if self.config.own_registry else REGISTRY)
        self.recorder = Observability(metrics_on(self.registry))
        self._server: MetricsServer | None = None

    @property
    def metrics_url(self) -> str | None:
        """Where ``/metrics`` is served; None where it is not."""
        return None if self._server is None else self._server.url

    def attach(self, kit: LLMKit) -> None:
        """Tell time by the clock of *kit*, and begin to serve."""
        self.recorder.clock = kit.clock
        if self.config.metrics_port is not None and self._server is None:
            self._server = MetricsServer(self.registry, self.config.metrics_port, self.config.metrics_address)

    def close(self) -> None:
        """Stop serving ``/metrics``."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    @hookimpl
    def llmkit_pre_request(self, call: Call) -> None:
        call.state[self] = self.recorder.begun()

    @hookimpl
    def llmkit_post_attempt(self, attempt: Attempt) -> None:
        self.recorder.attempted(attempt)

    @hookimpl
    def llmkit_post_response(self, call: Call) -> None:
        self._ended(call)

    @hookimpl
    def llmkit_error(self, call: Call) -> None:
        self._ended(call)

    def _ended(self, call: Call) -> None:
        began = call.state.pop(self, None)  # "ran" includes a pre hook that failed before it began
        if began is not None:
            self.recorder.ended(call, began)
