"""Spans: whose child, with what in them, ended once; and none at all where nobody asked."""

from __future__ import annotations

import asyncio
import gc
import json
from contextlib import suppress

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Span, SpanKind, StatusCode, get_current_span

from llmkit_plugins import Call, LLMKit, RateLimited, Refused, Share, Target, Usage, Wait
from llmkit_plugins.events import CircuitChanged, CircuitsExhausted, LimitReached, Routed
from llmkit_plugins.plugins.observability import ObservabilityPlugin, tracing
from llmkit_plugins.testing import MODES, CancelAt, Failure, Last, ManualClock, Pause, ScriptedBackend, adrive, drive

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = TRACEPARENT.removesuffix("01") + "00"


@pytest.mark.parametrize("mode", MODES)
def test_a_request_and_below_it_each_attempt(mode, make_kit, spans):
    """A failover is one trace: the request, the attempt that failed, the one that answered."""
    drive(make_kit(), call := Call("hi", model="gpt"), ScriptedBackend({"a": [Failure("server")]}), mode)
    told = spans()
    assert told.keys() == {"llmkit chat", "chat m1", "chat m2"}
    request = told["llmkit chat"]
    assert request.parent is None
    assert (request.kind, request.status.status_code) == (SpanKind.INTERNAL, StatusCode.UNSET)
    for name in ("chat m1", "chat m2"):
        assert (told[name].kind, told[name].parent) == (SpanKind.CLIENT, request.context)
    assert told["chat m1"].status.status_code is StatusCode.ERROR
    assert told["chat m1"].attributes["error.type"] == "server"
    assert "error.type" not in told["chat m2"].attributes
    assert {span.attributes["llmkit.request.id"] for span in told.values()} == {call.id}


@pytest.mark.parametrize("mode", MODES)
def test_an_attempt_tells_what_the_conventions_want(mode, make_kit, spans):
    """The GenAI attributes, and ours."""
    backend = ScriptedBackend(default=["x", Last("y", Usage(10, 8, cached_tokens=4, reasoning_tokens=6))])
    params = {"temperature": 0.5, "max_tokens": 9, "stop": "end", "tools": [object()], "top_p": None}
    drive(make_kit(), call := Call("hi", params=params), backend, mode)
    told = dict(spans()["chat m1"].attributes)
    if call.stream:
        assert told.pop("gen_ai.request.stream") is True
        assert told.pop("gen_ai.response.time_to_first_chunk") == 0.0
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "p1",
        "gen_ai.request.model": "m1",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.stop_sequences": ("end",),
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 8,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 6,
        "llmkit.request.id": call.id,
        "llmkit.target": "a",
        "llmkit.attempt": 1,
        "llmkit.outcome": "ok",
        "llmkit.cost_usd": pytest.approx((10 * 1.0 + 8 * 2.0) / 1e6),
    }


@pytest.mark.parametrize("mode", MODES)
def test_times_are_those_of_the_kits_clock(mode, make_kit, spans, clock, plugin):
    """The request takes the wait and the answer, the attempt only the answer."""

    def wait(call):
        yield Wait(2.0)

    drive(
        make_kit(plugin(pre_request=wait)),
        Call("hi"),
        ScriptedBackend(default=[Pause(3.0), "x"], sleep=clock.sleep),
        mode,
    )
    request, attempt = spans()["llmkit chat"], spans()["chat m1"]
    assert (request.end_time - request.start_time) / 1e9 == pytest.approx(5.0)
    assert (attempt.end_time - attempt.start_time) / 1e9 == pytest.approx(3.0)
    assert attempt.end_time == request.end_time


@pytest.mark.parametrize("mode", MODES)
def test_it_joins_the_span_that_is_current(mode, make_kit, spans, tracers):
    """The application's own span is the parent, and stays current and open."""
    with tracers.get_tracer("app").start_as_current_span("app") as app:
        drive(make_kit(), Call("hi"), ScriptedBackend(), mode)
        assert app.is_recording()
    assert spans()["llmkit chat"].parent == app.get_span_context()


@pytest.mark.parametrize("metadata", [{"traceparent": TRACEPARENT}, {"headers": {"traceparent": TRACEPARENT}}])
def test_it_joins_a_trace_that_came_with_the_request(metadata, make_kit, spans):
    """A ``traceparent`` in the call's metadata, or among the headers a proxy keeps there."""
    make_kit().call(Call("hi", metadata=metadata), ScriptedBackend())
    parent = spans()["llmkit chat"].parent
    assert f"00-{parent.trace_id:032x}-{parent.span_id:016x}-01" == TRACEPARENT


def test_the_current_span_counts_before_what_came_with_the_request(make_kit, spans, tracers):
    """The application has joined that trace itself, or meant another one."""
    with tracers.get_tracer("app").start_as_current_span("app") as app:
        make_kit().call(Call("hi", metadata={"traceparent": TRACEPARENT}), ScriptedBackend())
    assert spans()["llmkit chat"].parent == app.get_span_context()


def test_it_joins_the_proxys_span(make_kit, spans, tracers):
    """LiteLLM's proxy keeps its span in the metadata."""
    proxy = tracers.get_tracer("proxy").start_span("proxy")
    make_kit().call(Call("hi", metadata={"litellm_parent_otel_span": proxy}), ScriptedBackend())
    assert spans()["llmkit chat"].parent == proxy.get_span_context()
    proxy.end()


def test_it_joins_the_span_that_is_named(registry, tracers, spans):
    """An instrumentation that makes no span current may still know which one a call belongs to."""
    run = tracers.get_tracer("runs").start_span("run")
    by_id = {"run-1": run}
    plugin = ObservabilityPlugin(registry, tracer_provider=tracers, parent=lambda call: by_id.get(call.id))
    LLMKit([plugin], [Target("a", "p", "m1", 1, 1)]).call(Call("hi", id="run-1"), ScriptedBackend())
    run.end()
    assert spans()["llmkit chat"].parent == run.get_span_context()


@pytest.mark.parametrize("broken", ["nonsense", 7, None, TRACEPARENT.replace("0af", "xyz")])
def test_a_broken_traceparent_begins_a_trace(broken, make_kit, spans):
    """What cannot be read is not there."""
    make_kit().call(Call("hi", metadata={"traceparent": broken}), ScriptedBackend())
    assert spans()["llmkit chat"].parent is None


def test_a_trace_that_is_not_sampled_is_not_recorded(make_kit, exporter):
    """The caller has decided, whatever the ratio."""
    make_kit(trace_ratio=1.0).call(Call("hi", metadata={"traceparent": UNSAMPLED}), ScriptedBackend())
    assert exporter.get_finished_spans() == ()


def test_a_trace_that_is_sampled_is_recorded(make_kit, spans):
    """The caller has decided, whatever the ratio."""
    make_kit(trace_ratio=0.0).call(Call("hi", metadata={"traceparent": TRACEPARENT}), ScriptedBackend())
    assert spans().keys() == {"llmkit chat", "chat m1"}


@pytest.mark.parametrize("mode", MODES)
def test_no_span_of_ours_is_ever_current(mode, make_kit, tracers):
    """Where the provider is asked, between the chunks, and in other plugins, the application's span stays current."""
    seen: list[Span] = []

    class Seeing(ScriptedBackend):
        def stream(self, call, attempt):
            for chunk in super().stream(call, attempt):
                seen.append(get_current_span())
                yield chunk

        async def astream(self, call, attempt):
            async for chunk in super().astream(call, attempt):
                seen.append(get_current_span())
                yield chunk

    kit = make_kit(propagate_trace=True, content=True)
    with tracers.get_tracer("app").start_as_current_span("app") as app:
        if mode == "astream":

            async def read() -> None:
                async for _ in kit.astream(Call("hi"), Seeing()):
                    seen.append(get_current_span())

            asyncio.run(read())
        elif mode == "stream":
            for _ in kit.stream(Call("hi"), Seeing()):
                seen.append(get_current_span())
        else:
            drive(kit, Call("hi"), Seeing(), mode)
        assert get_current_span() is app
    assert seen
    assert set(seen) == {app}


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
def test_a_stream_that_is_forgotten_ends_its_spans(shared, make_kit, exporter, plugin):
    """Collected as garbage, never closed: both end once, as cancelled, when the next call begins or the kit closes."""
    kit = make_kit(*([plugin(pre_request=lambda call: Share("all"))] if shared else []))
    stream = kit.stream(Call("hi"), ScriptedBackend())
    next(stream)
    del stream
    gc.collect()
    kit.close()
    ended = exporter.get_finished_spans()
    assert sorted((span.name, span.attributes["llmkit.outcome"]) for span in ended) == [
        ("chat m1", "cancelled"),
        ("llmkit chat", "cancelled"),
    ]


class CountingSampler:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def should_sample(self, *args, **kwargs):
        self.asked += 1
        return ALWAYS_OFF.should_sample(*args, **kwargs)


def test_what_is_not_sampled_never_reaches_the_sdk(registry):
    """The ratio is decided before a span is made; where the SDK's own sampler says no, it is asked once a call."""
    for ratio, asked in ((0.0, 0), (1.0, 1)):
        sampler = CountingSampler()
        plugin = ObservabilityPlugin(
            registry, tracer_provider=TracerProvider(sampler=sampler, shutdown_on_exit=False), trace_ratio=ratio
        )
        LLMKit([plugin], [Target("a", "p", "m", 1, 1)]).call(Call("hi"), ScriptedBackend())
        assert sampler.asked == asked


@pytest.mark.parametrize("mode", MODES)
def test_a_refusal_is_an_error_of_the_request(mode, make_kit, spans, plugin):
    """The request says which refusal; there was no attempt."""

    def refuse(call):
        raise RateLimited("per user", "secret-user", 1.0)

    with pytest.raises(RateLimited):
        drive(make_kit(plugin(pre_request=refuse)), Call("hi"), ScriptedBackend(), mode)
    (request,) = spans().values()
    assert request.attributes["error.type"] == "RateLimited"
    assert request.status.description is None
    assert "secret-user" not in request.to_json()


@pytest.mark.parametrize("mode", MODES)
def test_a_refused_attempt_has_a_span(mode, make_kit, spans, plugin):
    """One span for each attempt, whatever its end."""

    def refuse(call, attempt):
        if attempt.target.name == "a":
            raise Refused("no")

    drive(make_kit(plugin(pre_attempt=refuse)), Call("hi"), ScriptedBackend(), mode)
    refused = spans()["chat m1"]
    assert (refused.attributes["llmkit.outcome"], refused.attributes["error.type"]) == ("refused", "Refused")


@pytest.mark.parametrize("mode", ["arun", "astream"])
@pytest.mark.parametrize("propagate_trace", [False, True])
def test_every_span_ends_once_wherever_the_caller_is_cancelled(mode, propagate_trace, make_kit, exporter):
    """At each await in turn: the request and its attempts end once, as cancelled, and that is no error."""
    at = 1
    while True:
        exporter.clear()
        kit = make_kit(propagate_trace=propagate_trace)
        waiting = CancelAt(adrive(kit, Call("hi"), ScriptedBackend(), mode), at)

        async def run(waiting=waiting) -> None:
            with suppress(asyncio.CancelledError):
                await waiting

        asyncio.run(run())
        ended = exporter.get_finished_spans()
        if waiting.suspensions < at:
            break
        assert sorted(span.name for span in ended) == ["chat m1", "llmkit chat"]
        assert {span.status.status_code for span in ended} == {StatusCode.UNSET}
        assert {span.attributes["llmkit.outcome"] for span in ended} <= {"cancelled", "ok"}
        at += 1
    assert at > 3


@pytest.mark.parametrize("mode", ["stream", "astream"])
def test_an_abandoned_stream_ends_its_spans(mode, make_kit, spans):
    """Closed half-way, both end as cancelled."""
    kit = make_kit()
    if mode == "stream":
        stream = kit.stream(Call("hi"), ScriptedBackend())
        next(stream)
        stream.close()
    else:

        async def leave() -> None:
            stream = kit.astream(Call("hi"), ScriptedBackend())
            await anext(stream)
            await stream.aclose()

        asyncio.run(leave())
    assert {span.attributes["llmkit.outcome"] for span in spans().values()} == {"cancelled"}
    assert len(spans()) == 2


async def test_a_follower_links_to_the_attempt_that_answered(make_kit, exporter, plugin):
    """Two callers, one attempt: it is the leader's child, and the follower says whose it was."""
    kit, backend = make_kit(plugin(pre_request=lambda call: Share("all"))), ScriptedBackend()
    leader, follower = Call("hi"), Call("hi")
    await asyncio.gather(kit.acall(leader, backend), kit.acall(follower, backend))
    told = {(span.name, span.attributes["llmkit.request.id"]): span for span in exporter.get_finished_spans()}
    assert len(told) == 3
    attempt = told["chat m1", leader.id]
    assert attempt.parent == told["llmkit chat", leader.id].context
    following = told["llmkit chat", follower.id]
    assert [link.context for link in following.links] == [attempt.context]
    assert following.attributes["llmkit.shared_with"] == leader.id
    assert following.context.trace_id != attempt.context.trace_id


async def test_an_attempt_outlives_the_leader_that_left(make_kit, exporter, plugin):
    """The leader ends as cancelled; its attempt goes on for the follower, and still is its child."""
    kit = make_kit(plugin(pre_request=lambda call: Share("all")))
    release = asyncio.Event()

    class Held(ScriptedBackend):
        async def asend(self, call, attempt):
            await release.wait()
            return await super().asend(call, attempt)

    backend, leader, follower = Held(), Call("hi"), Call("hi")
    leading = asyncio.create_task(kit.acall(leader, backend))
    await asyncio.sleep(0)
    following = asyncio.create_task(kit.acall(follower, backend))
    await asyncio.sleep(0)
    leading.cancel()
    with suppress(asyncio.CancelledError):
        await leading
    release.set()
    assert (await following).raw == "abc"
    told = {(span.name, span.attributes["llmkit.request.id"]): span for span in exporter.get_finished_spans()}
    assert told["llmkit chat", leader.id].attributes["llmkit.outcome"] == "cancelled"
    assert told["chat m1", leader.id].parent == told["llmkit chat", leader.id].context
    assert told["chat m1", leader.id].attributes["llmkit.outcome"] == "ok"


def test_what_happens_on_the_way_is_told(make_kit, spans, plugin):
    """Limits, routes and circuits are events of the request; an attempt says what state its circuit was in."""

    def say(call, targets):
        kit.events.publish(LimitReached(call, "per user", "waited", 1.5))
        kit.events.publish(Routed(call, targets[0], "cheapest", 2.0))
        kit.events.publish(CircuitsExhausted(call, ("a", "b")))

    kit = make_kit(plugin(route=say))
    kit.events.publish(CircuitChanged("a", "open", "half_open", "waited"))
    kit.call(Call("hi"), ScriptedBackend())
    assert {event.name: dict(event.attributes) for event in spans()["llmkit chat"].events} == {
        "llmkit.limit_reached": {
            "llmkit.limit": "per user",
            "llmkit.limit.action": "waited",
            "llmkit.limit.seconds": 1.5,
        },
        "llmkit.routed": {
            "llmkit.target": "a",
            "llmkit.route.reason": "cheapest",
            "llmkit.route.predicted_seconds": 2.0,
        },
        "llmkit.circuits_exhausted": {"llmkit.targets": ("a", "b")},
    }
    assert spans()["chat m1"].attributes["llmkit.circuit.state"] == "half_open"


def headers_seen(kit, call) -> dict:
    seen: list[dict] = []

    class Reading(ScriptedBackend):
        def stream(self, call, attempt):
            seen.append(dict(attempt.request_headers or {}))
            return super().stream(call, attempt)

    kit.call(call, Reading())
    return seen[0]


def test_the_provider_is_told_of_the_attempts_span(make_kit, spans):
    """Where it is asked for, a backend finds a ``traceparent`` that names the span of the attempt."""
    headers = headers_seen(make_kit(propagate_trace=True), Call("hi"))
    span = spans()["chat m1"].context
    assert headers == {"traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-01"}


def test_headers_of_other_plugins_stay(make_kit, plugin):
    """The ``traceparent`` is added to what somebody else wants sent."""

    def ask_for(call, attempt):
        attempt.request_headers = {"x-team": "search"}

    kit = make_kit(plugin(pre_attempt=ask_for), propagate_trace=True)
    kit.reorder(list(reversed(kit.plugins)))
    assert headers_seen(kit, Call("hi")).keys() == {"x-team", "traceparent"}


def test_a_trace_that_is_not_sampled_is_passed_on(make_kit):
    """The provider is told the caller's trace, and that it is not recorded."""
    headers = headers_seen(make_kit(propagate_trace=True), Call("hi", metadata={"traceparent": UNSAMPLED}))
    assert headers == {"traceparent": UNSAMPLED}


def test_nobody_is_told_of_a_trace_unless_asked(make_kit):
    """A provider learns no ids of ours by default."""
    assert headers_seen(make_kit(), Call("hi")) == {}


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "My number is 1234."}]


@pytest.mark.parametrize("mode", MODES)
def test_what_was_said_is_not_recorded_unless_asked(mode, make_kit, exporter):
    """Neither prompt, nor answer, nor an error's text is anywhere in the spans."""
    backend = ScriptedBackend({"a": [ValueError("key sk-1234 is wrong")]}, default=["secret answer"])
    kit = make_kit()
    with suppress(ValueError):
        drive(kit, Call(MESSAGES), backend, mode)
    kit.targets = kit.targets[1:]
    drive(kit, Call(MESSAGES), backend, mode)
    told = "".join(span.to_json() for span in exporter.get_finished_spans())
    for said in ("sk-1234", "My number", "secret"):  # and no mere digits, which an id or a time may have
        assert said not in told
    assert "ValueError" in told


@pytest.mark.parametrize("mode", MODES)
def test_what_was_said_is_recorded_where_asked(mode, make_kit, spans):
    """In the conventions' form, on the request; a stream's words are put together."""
    script = ["an ", Last("answer", Usage(1, 2))]
    drive(make_kit(content=True), Call(MESSAGES), ScriptedBackend(default=script), mode)
    told = spans()["llmkit chat"].attributes
    assert json.loads(told["gen_ai.input.messages"]) == [
        {"role": message["role"], "parts": [{"type": "text", "content": message["content"]}]} for message in MESSAGES
    ]
    assert json.loads(told["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "an answer"}], "finish_reason": "stop"}
    ]


@pytest.mark.parametrize("mode", ["stream", "astream"])
def test_of_a_failover_only_the_answer_is_recorded(mode, make_kit, spans):
    """What a provider said before it failed is not what the caller was told."""
    kit, backend = make_kit(content=True), ScriptedBackend({"a": [Failure("server")]}, default=["an ", "answer"])
    drive(kit, Call(MESSAGES), backend, mode)
    assert "an answer" in spans()["llmkit chat"].attributes["gen_ai.output.messages"]


def test_of_an_abandoned_stream_what_came_is_recorded(make_kit, spans):
    """As far as the provider got."""
    stream = make_kit(content=True).stream(Call(MESSAGES), ScriptedBackend(default=["one ", "two ", "three"]))
    next(stream)
    next(stream)
    stream.close()
    (answer,) = json.loads(spans()["llmkit chat"].attributes["gen_ai.output.messages"])
    assert answer == {"role": "assistant", "parts": [{"type": "text", "content": "one two "}]}


async def test_a_follower_says_what_it_was_told(make_kit, exporter, plugin):
    """Also of a stream, which another's attempt brought."""
    kit = make_kit(plugin(pre_request=lambda call: Share("all")), content=True)
    backend = ScriptedBackend(default=["an ", "answer"])

    async def read(call: Call) -> None:
        [_ async for _ in kit.astream(call, backend)]

    await asyncio.gather(read(Call(MESSAGES)), read(Call(MESSAGES)))
    told = [span.attributes for span in exporter.get_finished_spans() if span.name == "llmkit chat"]
    assert len(told) == 2
    assert all("an answer" in attributes["gen_ai.output.messages"] for attributes in told)


def test_a_prompt_is_not_written_for_a_trace_that_is_not_sampled(registry):
    """The SDK's sampler is asked before anything costs anything."""
    written: list[str] = []
    plugin = ObservabilityPlugin(
        registry,
        tracer_provider=TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False),
        content=True,
        redact=lambda text: written.append(text) or text,
    )
    kit = LLMKit([plugin], [Target("a", "p", "m", 1, 1)], on_plugin_error="raise")
    list(kit.stream(call := Call(MESSAGES), ScriptedBackend()))
    assert written == []
    assert call.attempts[0].on_chunk is None


def test_a_redaction_that_fails_records_nothing(make_kit, spans):
    """The span is there, what was said is not."""

    def broken(text: str) -> str:
        raise RuntimeError(text)

    make_kit(content=True, redact=broken).call(Call(MESSAGES), ScriptedBackend(default=["an answer"]))
    assert not [name for name in spans()["llmkit chat"].attributes if name.endswith(".messages")]


def test_a_provider_set_up_later_is_found(monkeypatch, registry):
    """A process without an SDK costs nothing and is asked again after a second."""
    made = TracerProvider(shutdown_on_exit=False)
    offered: list = [tracing.NoOpTracerProvider()]
    monkeypatch.setattr(tracing, "get_tracer_provider", lambda: offered[-1])
    clock = ManualClock()
    plugin = ObservabilityPlugin(registry)
    kit = LLMKit([plugin], clock=clock)
    traced = []
    for _ in range(3):
        call = Call("hi")
        plugin.recorder.begun(call)
        traced.append(plugin.recorder.tracing.of(call) is not None)
        plugin.recorder.ended(call)
        offered.append(made)
        clock.advance(0.6)
    assert traced == [False, False, True]
    kit.close()
