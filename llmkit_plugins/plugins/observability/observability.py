"""Records what happens to calls. Knows no hook and no framework."""

from __future__ import annotations

from llmkit_plugins.call import Attempt, Call, Target
from llmkit_plugins.clock import SYSTEM_CLOCK, Clock
from llmkit_plugins.plugins.observability.metrics import Metrics, error_type

NONE = "none"
"""The label of a call that reached no provider."""


class Observability:
    """Turns the ends of calls and attempts into *metrics*. Times are seconds of *clock*."""

    def __init__(self, metrics: Metrics, clock: Clock = SYSTEM_CLOCK) -> None:
        self.metrics, self.clock = metrics, clock
        self._active = metrics.request_active

    def begun(self) -> float:
        """A request began; returns when, to be handed to :meth:`ended`."""
        self._active.inc()
        return self.clock()

    def ended(self, call: Call, began: float) -> None:
        """The request of *call* ended, whatever its end."""
        self._active.dec()
        provider, model = self._labels(call)
        self.metrics.request_duration.labels(provider, model, call.outcome).observe(self.clock() - began)

    def attempted(self, attempt: Attempt) -> None:
        """One attempt ended, whatever its end."""
        target, usage = attempt.target, attempt.usage
        if usage is not None:
            tokens = self.metrics.request_tokens
            tokens.labels(target.provider, target.model, "input").inc(usage.input_tokens)
            tokens.labels(target.provider, target.model, "output").inc(usage.output_tokens)
        if attempt.outcome == "error":
            kind = error_type(attempt.kind, attempt.error)
            self.metrics.provider_errors.labels(target.provider, target.model, kind).inc()

    @staticmethod
    def _labels(call: Call) -> tuple[str, str]:
        answered_by = call.response.attempt if call.response is not None else None
        last = answered_by or (call.attempts[-1] if call.attempts else None)
        target: Target | None = last.target if last else None
        return (NONE, call.model or NONE) if target is None else (target.provider, target.model)
