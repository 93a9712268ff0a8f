"""The one place where what happens to calls is recorded: as metrics, spans and logs. Knows no hook and no framework."""

from __future__ import annotations

from collections.abc import Callable
from logging import INFO
from typing import Any

from llmkit_plugins.call import Attempt, Call
from llmkit_plugins.clock import SYSTEM_CLOCK, Clock
from llmkit_plugins.events import CircuitChanged, CircuitsExhausted, LimitReached, Routed
from llmkit_plugins.plugins.observability import logs
from llmkit_plugins.plugins.observability.cost import Prices, has_cost
from llmkit_plugins.plugins.observability.counting import Counting
from llmkit_plugins.plugins.observability.genai import error_type
from llmkit_plugins.plugins.observability.logs import request_log
from llmkit_plugins.plugins.observability.metrics import Metrics
from llmkit_plugins.plugins.observability.otel_metrics import GenAI
from llmkit_plugins.plugins.observability.tracing import Trace, Tracing


class Observability:
    """Turns what happens to calls into *metrics*, spans (*tracing*), the conventions' own metrics (*genai*) and logs.

    Each part may be None, and then costs nothing. Times are seconds of *clock*. Metrics are noted here, and written
    when somebody reads them.
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
        self._counting = counting = None if metrics is None else Counting(metrics, self.prices)
        # what every call needs, bound beforehand: 0.05 µs each
        self._write_begun = None if counting is None else counting.begun
        self._write_ended = None if counting is None else counting.ended
        self._write_attempted = None if counting is None else counting.attempted
        self._note = _forget if metrics is None else metrics.later.note
        self._states = logs.StateLog(max_limits=500)
        self._predictions = False
        self._only_logs = metrics is None and tracing is None

    # -- requests ---------------------------------------------------------------------------------------------------

    def begun(self, call: Call) -> None:
        """A request began."""
        if self._only_logs and not request_log.isEnabledFor(INFO):
            return
        now = call.state[self] = self.clock()
        if self._write_begun is not None:
            self._note(self._write_begun)
        if self.tracing is not None:
            self.tracing.begun(call, now)

    def ended(self, call: Call, error: BaseException | None = None) -> None:
        """The request of *call* ended, whatever its end."""
        began = call.state.pop(self, None)
        if began is None:  # nobody wanted to know, or a hook was told the end of what it failed to begin
            return
        now = self.clock()
        trace = None if self.tracing is None else self.tracing.of(call)
        try:
            if self._write_ended is not None:
                self._note_end(self._write_ended, call, error, now - began, trace)
            if request_log.isEnabledFor(INFO):
                logs.log_request(call, self._facts(call, error, now - began, trace))
        finally:
            if trace is not None and self.tracing is not None:
                self.tracing.ended(call, error, now)

    def _note_end(
        self, write: Callable[..., None], call: Call, error: BaseException | None, seconds: float, trace: Trace | None
    ) -> None:
        response, attempts = call.response, call.attempts
        told_by = response.attempt if response is not None else attempts[-1] if attempts else None
        target = None if told_by is None else told_by.target
        self._note(write, target, call.model, call.outcome, seconds, None if trace is None else trace.exemplar)
        if not attempts or call.outcome == "refused":
            self._note_unanswered(call, error)

    def _note_unanswered(self, call: Call, error: BaseException | None) -> None:
        """A request that no attempt of its own has answered, or that was refused after some."""
        counting, response = self._counting, call.response
        if counting is not None and call.outcome == "refused":
            self._note(counting.refused, type(error))
        elif counting is not None:
            by = None if response is None else "answer" if response.shared is None else "sharing"
            self._note(counting.unattempted, call.share is not None, by)

    def _facts(self, call: Call, error: BaseException | None, seconds: float, trace: Trace | None) -> dict[str, Any]:
        response, attempts = call.response, call.attempts
        answered_by = response.attempt if response is not None else attempts[-1] if attempts else None
        usage = None if answered_by is None else answered_by.usage
        costs = [
            self.prices.cost(one)
            for one in attempts
            if has_cost(one.usage, one.reported_cost, one.started, one.first_chunk, one.outcome)
        ]
        return {
            "request_id": call.id,
            "trace_id": None if trace is None else trace.exemplar.trace_id,
            "span_id": None if trace is None else trace.exemplar.span_id,
            "operation": call.operation,
            "model": call.model or (answered_by.target.model if answered_by else None),
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
        """An attempt is about to be made, whose stream is to be heard or whose provider to be told of the trace."""
        if self.tracing is not None:
            self.tracing.sending(call, attempt, self.clock())

    def attempted(self, call: Call, attempt: Attempt) -> None:
        """One attempt ended, whatever its end."""
        if self._only_logs:
            return
        trace = None if self.tracing is None else self.tracing.of(call)
        exemplar = None if trace is None else trace.exemplar
        try:
            if self._write_attempted is not None:
                self._note(
                    self._write_attempted,
                    attempt.target,
                    attempt.started,
                    attempt.first_chunk,
                    attempt.finished,
                    attempt.paused_seconds,
                    attempt.outcome,
                    attempt.usage,
                    attempt.chunks,
                    attempt.reported_cost,
                    exemplar,
                )
                if attempt.outcome == "error" or self._predictions or self.genai is not None:
                    self._note_rest(call, attempt, trace)
        finally:
            if trace is not None and self.tracing is not None:
                self.tracing.attempted(call, attempt, self.prices.cost(attempt), self.clock())

    def _note_rest(self, call: Call, attempt: Attempt, trace: Trace | None) -> None:
        counting = self._counting
        if counting is not None and attempt.outcome == "error":
            self._note(counting.failed, attempt.target, attempt.kind, error_type(None, attempt.error))
        elif counting is not None and self._predictions:
            self._hold_against(counting, call, attempt)
        if self.genai is not None:
            self.genai.attempted(call, attempt, self._note, None if trace is None else trace.context)

    def _hold_against(self, counting: Counting, call: Call, attempt: Attempt) -> None:
        """What came, against what was predicted; a failover may have gone where nobody predicted anything."""
        routed, seconds = call.state.pop(Routed, None), attempt.duration
        if routed is not None and routed.target is attempt.target and attempt.outcome == "ok" and seconds is not None:
            self._note(counting.predicted, routed.target, seconds / routed.predicted_seconds)

    # -- what happens in between ------------------------------------------------------------------------------------

    def limited(self, event: LimitReached) -> None:
        """A limit was used up."""
        now = self.clock()
        if self._counting is not None:
            self._note(self._counting.limited, event.limit, event.action, event.seconds)
        if self.tracing is not None:
            self.tracing.limited(event, now)
        self._states.limit(event, now)

    def circuit_changed(self, event: CircuitChanged) -> None:
        """A circuit opened, closed or let probes through."""
        if self._counting is not None:
            self._note(self._counting.circuit_changed, event)
        if self.tracing is not None:
            self.tracing.circuits[event.target] = event.after
        self._states.circuit(event)

    def circuits_exhausted(self, event: CircuitsExhausted) -> None:
        """Every circuit was open."""
        now = self.clock()
        if self.tracing is not None:
            self.tracing.exhausted(event, now)
        self._states.exhausted(event, now)

    def routed(self, event: Routed) -> None:
        """A router decided."""
        if self._counting is not None:
            self._note(self._counting.routed, event.target, event.reason)
            if event.predicted_seconds:
                event.call.state[Routed] = event
                self._predictions = True
        if self.tracing is not None:
            self.tracing.routed(event, self.clock())

    def plugin_failed(self, where: str) -> None:
        """A plugin failed in a hook; the kit has contained and logged it."""
        if self._counting is not None:
            self._note(self._counting.plugin_failed, where)

    def hook_took(self, plugin: str, hook: str, seconds: float) -> None:
        """A plugin was timed in a hook."""
        if self._counting is not None:
            self._note(self._counting.hook_took, plugin, hook, seconds)


def _forget(*_: Any) -> None:
    """There is nowhere to note anything."""
