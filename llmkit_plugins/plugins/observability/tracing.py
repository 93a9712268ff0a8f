"""Spans: one for each request and, below it, one for each attempt.

Nothing is ever attached to a context: parents are passed explicitly, so that no span depends on which task or thread a
hook runs in. A call that is not traced has no span at all: that is decided before anything is created.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from random import getrandbits, random
from time import time_ns
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    NoOpTracerProvider,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TracerProvider,
    format_span_id,
    format_trace_id,
    get_current_span,
    get_tracer_provider,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from llmkit_plugins.call import Attempt, Call
from llmkit_plugins.events import CircuitsExhausted, LimitReached, Routed
from llmkit_plugins.plugins.observability import genai
from llmkit_plugins.plugins.observability.content import Content, Heard
from llmkit_plugins.plugins.observability.instruments import Exemplar
from llmkit_plugins.plugins.observability.runs import RunSpans

SCOPE = "llmkit"
"""The instrumentation scope of spans and metrics."""

ParentOf = Callable[[Call], Span | None]

_PROPAGATOR = TraceContextTextMapPropagator()
_FAILED = Status(StatusCode.ERROR)  # without a description: what providers say may quote prompts and keys


class Trace:
    """The spans of one traced call."""

    def __init__(self, tracer: Tracer, span: Span, context: Context, now: float, begun: int) -> None:
        self.tracer, self.span = tracer, span
        self.context = context
        """The parent context for child spans."""
        self.begun = begun
        """Unix time in nanoseconds."""
        self._now = now
        ids = span.get_span_context()
        self.exemplar = Exemplar(format_trace_id(ids.trace_id), format_span_id(ids.span_id), begun / 1e9)
        """What links a metric value to this trace."""

    def at(self, seconds: float) -> int:
        """*seconds* of the kit's clock as Unix time in nanoseconds."""
        return self.begun + int((seconds - self._now) * 1e9)


class Tracing:
    """Makes spans with *provider* (None: that of the process, once it has one): for a share *ratio* of the calls not
    yet in a trace, and for all calls in a sampled one.

    *content* writes prompts and answers; without it there are none. If it *propagates*, providers are sent the trace
    context. *parent* returns the span that a call belongs to if none is current.
    """

    def __init__(
        self,
        provider: TracerProvider | None = None,
        *,
        ratio: float = 1.0,
        content: Content | None = None,
        propagates: bool = False,
        parent: ParentOf | None = None,
        wall: Callable[[], int] = time_ns,
        chance: Callable[[], float] = random,
    ) -> None:
        self._tracer = None if provider is None else provider.get_tracer(SCOPE)
        self.idle_until = float("-inf")
        """When to look for a provider again: the process had none, and looking takes 1 µs."""
        self._ratio, self._content, self._parent = ratio, content, parent
        self._propagates, self._wall, self._chance = propagates, wall, chance
        self.circuits: dict[str, str] = {}
        """The state of each target's circuit, if reported."""

    def of(self, call: Call) -> Trace | None:
        """The trace of *call*; None if it is not traced."""
        return call.state.get(self)

    # -- the runs that requests are made in -------------------------------------------------------------------------

    @cached_property
    def runs(self) -> RunSpans:
        """Where to report the application's runs, whose traces then contain the calls."""
        runs, named = RunSpans(self), self._parent
        self._parent = runs.span_of if named is None else lambda call: named(call) or runs.span_of(call)
        return runs

    def root(self, title: str, told: Mapping[str, Any]) -> Span | None:
        """A span called *title* that starts a trace, non-recording if not sampled; None if a span is current or there
        is no SDK."""
        tracer = self._tracer or self._ask_for_tracer()
        if tracer is None or get_current_span().get_span_context().is_valid:
            return None
        if self._ratio < 1.0 and self._chance() >= self._ratio:
            return NonRecordingSpan(SpanContext(getrandbits(127) + 1, getrandbits(63) + 1, is_remote=False))
        return tracer.start_span(title, kind=SpanKind.INTERNAL, attributes=told)

    # -- the request ------------------------------------------------------------------------------------------------

    def begun(self, call: Call, now: float) -> None:
        """A request began at *now*, which is not before ``idle_until``."""
        tracer = self._tracer or self._find_tracer(now)
        if tracer is None:
            return
        parent, context = parent_of(call, self._parent)
        if parent.is_valid:
            if not parent.trace_flags.sampled:
                return
        elif self._ratio < 1.0 and self._chance() >= self._ratio:
            return
        wall = self._wall()
        told: dict[str, Any] = {"llmkit.request.id": call.id, genai.OPERATION: call.operation}
        if call.model is not None:
            told[genai.REQUEST_MODEL] = call.model
        span = tracer.start_span(f"llmkit {call.operation}", context, SpanKind.INTERNAL, told, start_time=wall)
        if span.is_recording():
            call.state[self] = Trace(tracer, span, set_span_in_context(span, context), now, wall)
            if self._content is not None and (prompt := self._content.prompt(call.messages)) is not None:
                span.set_attribute(genai.INPUT_MESSAGES, prompt)

    def _find_tracer(self, now: float) -> Tracer | None:
        """The tracer of the process. If it has none, look again after a second."""
        tracer = self._ask_for_tracer()
        if tracer is None:
            self.idle_until = now + 1.0
        return tracer

    def _ask_for_tracer(self) -> Tracer | None:
        provider = get_tracer_provider()
        if not isinstance(provider, ProxyTracerProvider | NoOpTracerProvider):
            self._tracer = provider.get_tracer(SCOPE)
        return self._tracer

    def ended(self, trace: Trace, call: Call, error: BaseException | None, now: float) -> None:
        """The request ended at *now*, with whatever outcome. A late attempt of its upstream may still follow."""
        span, response = trace.span, call.response
        try:
            span.set_attributes({"llmkit.outcome": call.outcome or "", "llmkit.attempts": len(call.attempts)})
            if call.outcome in ("error", "refused"):
                span.set_attribute(genai.ERROR_TYPE, type(error).__qualname__)
                span.set_status(_FAILED)
            if response is not None and response.shared is not None:
                span.set_attribute("llmkit.shared_with", response.shared)
                leader = None if response.attempt is None else response.attempt.state.get(self)
                if leader is not None:
                    span.add_link(leader)
            if self._content is not None and (answer := self._said(self._content, call)) is not None:
                span.set_attribute(genai.OUTPUT_MESSAGES, answer)
        finally:
            span.end(trace.at(now))

    def _said(self, content: Content, call: Call) -> str | None:
        """The answer to *call*, as far as it got: whole, or what its stream or another call's delivered."""
        response, last = call.response, genai.told_by(call)
        reason = None if last is None else last.finish_reason
        if response is not None and response.raw is not None:
            return content.answer(response.raw, reason)
        heard = None if last is None else last.state.get(_HEARD)
        return None if heard is None else content.streamed(heard, reason)

    # -- its attempts -----------------------------------------------------------------------------------------------

    def sending(self, call: Call, attempt: Attempt, now: float) -> None:
        """An attempt is about to be made: if enabled, record its stream, and send the provider the trace context."""
        trace = self.of(call)
        if self._content is not None and trace is not None:
            heard = attempt.state[_HEARD] = Heard()
            attempt.on_chunk = [*(attempt.on_chunk or ()), heard.hear]
        if self._propagates:
            self._propagate(call, attempt, trace, now)

    def _propagate(self, call: Call, attempt: Attempt, trace: Trace | None, now: float) -> None:
        """Open the span already; otherwise it is created when the attempt has ended, which costs less."""
        if trace is None:
            context = parent_of(call, self._parent)[0]
        else:
            span = attempt.state[_OPEN] = self._open(call, attempt, trace, now)
            context = span.get_span_context()
        if context.is_valid:
            ids = f"{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"
            sampled = context.trace_flags & TraceFlags.SAMPLED
            attempt.request_headers = {**(attempt.request_headers or {}), "traceparent": f"00-{ids}-{sampled:02x}"}

    def attempted(self, trace: Trace, call: Call, attempt: Attempt, cost: float | None, now: float) -> None:
        """An attempt ended, with whatever outcome."""
        told = self._attempt_attributes(call, attempt, cost)
        span = attempt.state.pop(_OPEN, None)
        if span is None:
            span = self._open(call, attempt, trace, now if attempt.started is None else attempt.started, told)
        else:
            span.set_attributes(told)
        if attempt.outcome in ("error", "refused"):
            span.set_status(_FAILED)
        attempt.state[self] = span.get_span_context()  # what a follower links to
        span.end(trace.at(now))

    def _attempt_attributes(self, call: Call, attempt: Attempt, cost: float | None) -> dict[str, Any]:
        told = genai.attempt_attributes(call, attempt)
        told["llmkit.target"], told["llmkit.attempt"] = attempt.target.name, attempt.number
        told["llmkit.request.id"], told["llmkit.outcome"] = call.id, attempt.outcome
        if cost is not None:
            told["llmkit.cost_usd"] = cost
        if circuit := self.circuits.get(attempt.target.name):
            told["llmkit.circuit.state"] = circuit
        if attempt.outcome in ("error", "refused"):
            told[genai.ERROR_TYPE] = genai.error_type(attempt.kind, attempt.error)
        return told

    def _open(
        self, call: Call, attempt: Attempt, trace: Trace, began: float, told: Mapping[str, Any] | None = None
    ) -> Span:
        name = f"{call.operation} {attempt.target.model}"
        return trace.tracer.start_span(name, trace.context, SpanKind.CLIENT, told, start_time=trace.at(began))

    # -- what happens in between ------------------------------------------------------------------------------------

    def limited(self, event: LimitReached, now: float) -> None:
        """A limit was reached."""
        told: dict[str, Any] = {"llmkit.limit": event.limit, "llmkit.limit.action": event.action}
        if event.seconds < float("inf"):
            told["llmkit.limit.seconds"] = event.seconds
        self._note(event.call, "llmkit.limit_reached", told, now)

    def routed(self, event: Routed, now: float) -> None:
        """A router decided."""
        told: dict[str, Any] = {"llmkit.target": event.target.name, "llmkit.route.reason": event.reason}
        if event.predicted_seconds is not None:
            told["llmkit.route.predicted_seconds"] = event.predicted_seconds
        self._note(event.call, "llmkit.routed", told, now)

    def exhausted(self, event: CircuitsExhausted, now: float) -> None:
        """Too few circuits were closed."""
        self._note(event.call, "llmkit.circuits_exhausted", {"llmkit.targets": event.targets}, now)

    def _note(self, call: Call, name: str, told: Mapping[str, Any], now: float) -> None:
        trace = self.of(call)
        if trace is not None and trace.span.is_recording():
            trace.span.add_event(name, told, trace.at(now))


_OPEN = object()
"""The key in ``attempt.state`` for a span opened before the attempt."""

_HEARD = object()
"""The key in ``attempt.state`` for what a stream has said, if that is recorded."""


def parent_of(call: Call, named: ParentOf | None = None) -> tuple[SpanContext, Context | None]:
    """The span that contains *call*, and its context: the current one, else what *named* returns, else the LiteLLM
    proxy's, else that of a ``traceparent`` in the call's metadata (or among the headers there)."""
    current = get_current_span().get_span_context()
    metadata = call.metadata
    if current.is_valid or not (metadata or named):
        return current, None
    span = (named(call) if named else None) or metadata.get("litellm_parent_otel_span")
    if isinstance(span, Span):
        return span.get_span_context(), set_span_in_context(span)
    headers = metadata.get("headers")
    carrier = metadata if "traceparent" in metadata or not isinstance(headers, Mapping) else headers
    told = {name: carrier[name] for name in ("traceparent", "tracestate") if isinstance(carrier.get(name), str)}
    if not told:
        return INVALID_SPAN_CONTEXT, None
    context = _PROPAGATOR.extract(told)
    return get_current_span(context).get_span_context(), context
