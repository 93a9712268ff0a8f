"""The one place that records what happens to calls: as metrics, spans and logs. Independent of hooks and frameworks."""

from __future__ import annotations

from logging import INFO
from typing import Any

from llmkit_plugins.call import Attempt, Call
from llmkit_plugins.clock import SYSTEM_CLOCK, Clock
from llmkit_plugins.events import CircuitChanged, CircuitsExhausted, LimitReached, Routed, StoreUnreachable
from llmkit_plugins.plugins.observability import logs
from llmkit_plugins.plugins.observability.cost import Prices, has_cost
from llmkit_plugins.plugins.observability.counting import Counting
from llmkit_plugins.plugins.observability.genai import told_by
from llmkit_plugins.plugins.observability.logs import request_log
from llmkit_plugins.plugins.observability.metrics import Metrics
from llmkit_plugins.plugins.observability.otel_metrics import GenAI
from llmkit_plugins.plugins.observability.text import writable
from llmkit_plugins.plugins.observability.tracing import Trace, Tracing


class Observability:
    """Records what happens to calls in *metrics*, spans (*tracing*), the conventions' own metrics (*genai*) and logs.

    Any part may be None, and then costs nothing. Times are in seconds of *clock*.
    """

    def __init__(
        self,
        metrics: Metrics | None,
        clock: Clock = SYSTEM_CLOCK,
        *,
        tracing: Tracing | None = None,
        genai: GenAI | None = None,
        prices: Prices | None = None,
    ) -> None:
        self.metrics, self.clock, self.tracing, self.genai = metrics, clock, tracing, genai
        self.prices = prices or Prices()
        self._counting = None if metrics is None else Counting(metrics, self.prices)
        self._states = logs.StateLog(max_known=500)
        self._predictions = False
        self._only_logs = metrics is None and tracing is None

    # -- requests ---------------------------------------------------------------------------------------------------

    def begun(self, call: Call) -> None:
        """A request began."""
        if self._only_logs and not request_log.isEnabledFor(INFO):
            return
        now = call.state[self] = self.clock()
        if self._counting is not None:
            self._counting.active.add(1.0)
        if self.tracing is not None and now >= self.tracing.idle_until:
            self.tracing.begun(call, now)

    def ended(self, call: Call, error: BaseException | None = None) -> None:
        """The request of *call* ended, with whatever outcome."""
        began = call.state.pop(self, None)
        if began is None:  # not recorded, or a hook is told of an end whose beginning failed
            return
        now = self.clock()
        trace: Trace | None = None if self.tracing is None else call.state.get(self.tracing)
        try:
            if self._counting is not None:
                self._counting.ended(call, error, now - began, None if trace is None else trace.exemplar)
            if request_log.isEnabledFor(INFO):
                logs.log_request(call, self._facts(call, error, now - began, trace))
        finally:
            if trace is not None and self.tracing is not None:
                self.tracing.ended(trace, call, error, now)

    def _facts(self, call: Call, error: BaseException | None, seconds: float, trace: Trace | None) -> dict[str, Any]:
        response, attempts, answered_by = call.response, call.attempts, told_by(call)
        usage = None if answered_by is None else answered_by.usage
        costs = [self.prices.cost(one) for one in attempts if has_cost(one)]
        model = call.model or (answered_by.target.model if answered_by else None)
        return {
            "request_id": call.id,
            "trace_id": None if trace is None else trace.exemplar.trace_id,
            "span_id": None if trace is None else trace.exemplar.span_id,
            "operation": call.operation,
            "model": None if model is None else writable(model),
            "outcome": call.outcome,
            "error_type": None if error is None else type(error).__qualname__,
            "target": answered_by.target.name if answered_by else None,
            "provider": answered_by.target.provider if answered_by else None,
            "attempts": len(attempts),
            "shared_with": None if response is None else response.shared,
            "input_tokens": None if usage is None else usage.input_tokens,
            "output_tokens": None if usage is None else usage.output_tokens,
            "cost_usd": None if None in costs else sum(cost for cost in costs if cost is not None),
            "seconds": round(seconds, 6),
        }

    # -- attempts ---------------------------------------------------------------------------------------------------

    def sending(self, call: Call, attempt: Attempt) -> None:
        """An attempt is about to be made whose stream is recorded or whose provider gets the trace context."""
        if self.tracing is not None:
            self.tracing.sending(call, attempt, self.clock())

    def attempted(self, call: Call, attempt: Attempt) -> None:
        """One attempt ended, with whatever outcome."""
        if attempt.outcome == "error":
            self._states.failed(attempt, self.clock())
        if self._only_logs:
            return
        trace: Trace | None = None if self.tracing is None else call.state.get(self.tracing)
        exemplar = None if trace is None else trace.exemplar
        try:
            if self._counting is not None:
                self._counting.attempted(attempt, exemplar)
                if self._predictions:
                    self._hold_against(self._counting, call, attempt)
                if self.genai is not None:
                    context = None if trace is None else trace.context
                    self.genai.attempted(call, attempt, self._counting.metrics.later.note, context)
        finally:
            if trace is not None and self.tracing is not None:
                self.tracing.attempted(trace, call, attempt, self.prices.cost(attempt), self.clock())

    def _hold_against(self, counting: Counting, call: Call, attempt: Attempt) -> None:
        """Compare actual with predicted latency; a failover may have gone to a target without a prediction."""
        routed, seconds = call.state.pop(Routed, None), attempt.duration
        if routed is not None and routed.target is attempt.target and attempt.outcome == "ok" and seconds is not None:
            counting.predicted(routed.target, seconds / routed.predicted_seconds)

    # -- what happens in between ------------------------------------------------------------------------------------

    def limited(self, event: LimitReached) -> None:
        """A limit was used up."""
        now = self.clock()
        if self._counting is not None:
            self._counting.limited(event.limit, event.action, event.seconds)
        if self.tracing is not None:
            self.tracing.limited(event, now)
        self._states.limit(event, now)

    def store_unreachable(self, _: StoreUnreachable) -> None:
        """The store shared by processes could not be reached; its user has logged that."""
        if self._counting is not None:
            self._counting.store_unreachable()

    def circuit_changed(self, event: CircuitChanged) -> None:
        """A circuit opened, closed or let probes through."""
        if self._counting is not None:
            self._counting.circuit_changed(event)
        if self.tracing is not None:
            self.tracing.circuits[event.target] = event.after
        self._states.circuit(event)

    def circuits_exhausted(self, event: CircuitsExhausted) -> None:
        """Too few circuits were closed."""
        now = self.clock()
        if self.tracing is not None:
            self.tracing.exhausted(event, now)
        self._states.exhausted(event, now)

    def routed(self, event: Routed) -> None:
        """A router decided."""
        state = event.call.state
        if self._counting is not None:
            self._counting.routed(event.target, event.reason)
            if event.predicted_seconds:
                state[Routed] = event
                self._predictions = True
        if self.tracing is not None and self.tracing in state:
            self.tracing.routed(event, self.clock())

    def plugin_failed(self, where: str) -> None:
        """A plugin failed in a hook; the kit has contained and logged it."""
        if self._counting is not None:
            self._counting.plugin_failed(where)

    def hook_took(self, plugin: str, hook: str, seconds: float) -> None:
        """A plugin was timed in a hook."""
        if self._counting is not None:
            self._counting.hook_took(plugin, hook, seconds)
