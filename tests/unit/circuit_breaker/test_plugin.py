"""The circuit breaker in a kit: which targets are left alone, when, and how they come back."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from llmkit_plugins import Call, CircuitOpen, LLMKit, RateLimited, Target, Usage, hookimpl
from llmkit_plugins.events import CircuitChanged, CircuitsExhausted
from llmkit_plugins.plugins.circuit_breaker import CircuitBreakerPlugin, State
from llmkit_plugins.testing import MODES, Failure, Last, ManualClock, Pause, PluginConformance, ScriptedBackend, drive

A, B, C = (Target(name, f"provider-{name}", "model") for name in "abc")


class TestCircuitBreakerPlugin(PluginConformance):
    """It keeps the laws."""

    def make_plugin(self) -> CircuitBreakerPlugin:
        return CircuitBreakerPlugin()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def kit_of(clock: ManualClock, *targets: Target, **settings: Any) -> tuple[LLMKit, CircuitBreakerPlugin]:
    plugin = CircuitBreakerPlugin(**{"consecutive_failures": 3, "open_seconds": 10.0, **settings})
    return LLMKit([plugin], targets or (A, B, C), clock=clock), plugin


def test_a_failing_target_is_left_alone(clock: ManualClock, mode: str) -> None:
    """After three failures in a row the next calls do not go there any more, and nobody saw an error."""
    kit, plugin = kit_of(clock)
    backend = ScriptedBackend({"a": [Failure("server")]}, sleep=clock.sleep)
    for _ in range(10):
        assert drive(kit, Call("hi"), backend, mode) == "abc"
    assert backend.sent["a"] == 3
    assert plugin.breakers["a"].state is State.OPEN


def test_a_healed_target_is_found_again(clock: ManualClock, mode: str) -> None:
    """When its time is over it gets probes, and after two good ones it is back."""
    kit, plugin = kit_of(clock)
    backend = ScriptedBackend({"a": [Failure("server")]}, sleep=clock.sleep)
    for _ in range(3):
        drive(kit, Call("hi"), backend, mode)
    backend.script.clear()
    clock.advance(10.0)
    for _ in range(4):
        assert drive(kit, Call("hi"), backend, mode) == "abc"
    assert plugin.breakers["a"].state is State.CLOSED
    assert backend.sent["a"] == 7


def test_the_only_target_is_refused_with_the_wait(clock: ManualClock, mode: str) -> None:
    """With nowhere else to go the caller is told at once which circuit is open and for how long."""
    kit, _ = kit_of(clock, A)
    backend = ScriptedBackend({"a": [Failure("server")]}, sleep=clock.sleep)
    for _ in range(3):
        with pytest.raises(Failure):
            drive(kit, Call("hi"), backend, mode)
    with pytest.raises(CircuitOpen) as refused:
        drive(kit, Call("hi"), backend, mode)
    assert refused.value.target == "a"
    assert refused.value.retry_after is not None
    assert 5.0 <= refused.value.retry_after <= 10.0
    assert backend.sent["a"] == 3


def test_never_all_targets_at_once(clock: ManualClock, mode: str) -> None:
    """Where every circuit is open the one that closes soonest is used all the same, and whoever listens is told."""
    kit, plugin = kit_of(clock)
    exhausted: list[CircuitsExhausted] = []
    kit.events.subscribe(CircuitsExhausted, exhausted.append)
    for name, seconds in (("a", 30.0), ("b", 5.0), ("c", 20.0)):
        plugin.breaker(name).force_open(seconds)
    backend = ScriptedBackend(sleep=clock.sleep)
    call = Call("hi")
    assert drive(kit, call, backend, mode) == "abc"
    assert backend.sent == {"b": 1}
    assert [(event.call, event.targets) for event in exhausted] == [(call, ("b",))]


def test_as_many_targets_stay_as_must(clock: ManualClock, mode: str) -> None:
    """With min_available 2 the closed one is used first, then that which closes soonest; only of that one is told."""
    kit, plugin = kit_of(clock, min_available=2)
    exhausted: list[CircuitsExhausted] = []
    kit.events.subscribe(CircuitsExhausted, exhausted.append)
    plugin.breaker("a").force_open(30.0)
    assert drive(kit, Call("hi"), ScriptedBackend(), mode) == "abc"
    assert not exhausted
    plugin.breaker("b").force_open(5.0)
    backend = ScriptedBackend({"c": [Failure("bad_request")]})
    with pytest.raises(Failure):
        drive(kit, Call("hi"), backend, mode)
    assert backend.sent == {"c": 1}
    assert [event.targets for event in exhausted] == [("b",)]
    backend, call = ScriptedBackend(), Call("hi")
    assert [target.name for target in kit.route(call, [A, B, C])] == ["c", "b"]


def test_who_passes_an_open_circuit_holds_no_place(clock: ManualClock) -> None:
    """When he leaves, the place of a probe that is under way meanwhile stays taken."""
    kit, plugin = kit_of(clock, A, B, half_open_requests=1)
    plugin.breaker("a").force_open(5.0)
    plugin.breaker("b").force_open(30.0)
    passing = kit.stream(Call("hi"), ScriptedBackend())
    next(passing)
    clock.advance(5.0)
    probe = plugin.breaker("a").acquire()
    assert probe is not None
    passing.close()
    assert plugin.breaker("a").acquire() is None
    plugin.breaker("a").release(probe)
    assert plugin.breaker("a").acquire() is not None


def test_what_somebody_opened_by_hand_stays_open(clock: ManualClock) -> None:
    """A target taken out for good is not used even where all others are open."""
    kit, plugin = kit_of(clock, A, B)
    plugin.breaker("a").force_open()
    plugin.breaker("b").force_open()
    with pytest.raises(CircuitOpen) as refused:
        drive(kit, Call("hi"), ScriptedBackend(), "run")
    assert refused.value.retry_after is None


def test_without_a_floor_all_may_be_open(clock: ManualClock) -> None:
    """With min_available 0 the call is refused, with the shortest wait."""
    kit, plugin = kit_of(clock, A, B, min_available=0)
    plugin.breaker("a").force_open(30.0)
    plugin.breaker("b").force_open(5.0)
    with pytest.raises(CircuitOpen) as refused:
        drive(kit, Call("hi"), ScriptedBackend(), "run")
    assert (refused.value.target, refused.value.retry_after) == ("b", 5.0)


@pytest.mark.parametrize("kind", ["bad_request", "auth", "not_found", "context_length", "content_filter"])
def test_the_callers_errors_say_nothing(clock: ManualClock, mode: str, kind: Any) -> None:
    """However often a caller is wrong, the circuit stays closed."""
    kit, plugin = kit_of(clock, A)
    for _ in range(20):
        with pytest.raises(Failure):
            drive(kit, Call("hi"), ScriptedBackend({"a": [Failure(kind)]}), mode)
    assert plugin.breakers["a"].state is State.CLOSED
    assert plugin.breakers["a"].health().error_count == 0


def test_a_caller_who_leaves_says_nothing(clock: ManualClock) -> None:
    """Abandoned streams count neither as answers nor as failures, and give a probe's place back."""
    kit, plugin = kit_of(clock, A, half_open_requests=1)
    for _ in range(20):
        stream = kit.stream(Call("hi"), ScriptedBackend())
        next(stream)
        stream.close()
    breaker = plugin.breakers["a"]
    assert (breaker.state, breaker.health().request_count) == (State.CLOSED, 0)
    breaker.force_open(1.0)
    clock.advance(1.0)
    for _ in range(3):
        stream = kit.stream(Call("hi"), ScriptedBackend())
        next(stream)
        stream.close()
    assert breaker.retry_after() == 0.0


def test_a_plugin_that_refuses_later_gives_the_probe_back(clock: ManualClock) -> None:
    """The place of a probe that was never sent is free at once."""

    class Refuse:
        @hookimpl
        def llmkit_pre_attempt(self) -> None:
            raise RateLimited("x", retry_after=1.0)

    kit, plugin = kit_of(clock, A, half_open_requests=1)
    kit.register(Refuse())
    plugin.breaker("a").force_open(1.0)
    clock.advance(1.0)
    for _ in range(3):
        with pytest.raises(RateLimited):
            drive(kit, Call("hi"), ScriptedBackend(), "run")
    assert plugin.breakers["a"].retry_after() == 0.0


def test_a_streaming_probe_is_good_with_its_first_chunk(clock: ManualClock) -> None:
    """Two long streams close the circuit when they have begun, not when they have ended."""
    kit, plugin = kit_of(clock, A, success_threshold=2)
    breaker = plugin.breaker("a")
    breaker.force_open(1.0)
    clock.advance(1.0)
    streams = [kit.stream(Call("hi"), ScriptedBackend()) for _ in range(2)]
    for stream in streams:
        next(stream)
    assert breaker.state is State.CLOSED
    for stream in streams:
        stream.close()


def test_429_opens_for_retry_after_only_when_it_persists(clock: ManualClock, mode: str) -> None:
    """One 429 is nothing; five without an answer in between are left alone for as long as the provider asked."""
    kit, plugin = kit_of(clock, A)
    backend = ScriptedBackend({"a": [Failure("rate_limit", retry_after=42.0)]})
    for sent in range(1, 6):
        assert plugin.breaker("a").state is State.CLOSED, sent
        with pytest.raises(Failure):
            drive(kit, Call("hi"), backend, mode)
    with pytest.raises(CircuitOpen) as refused:
        drive(kit, Call("hi"), backend, mode)
    assert refused.value.retry_after is not None
    assert refused.value.retry_after >= 42.0


def test_a_target_that_becomes_slow_is_left_alone(clock: ManualClock, mode: str) -> None:
    """After a hundred answers of 100 ms, some of 5 s are enough; the others answer as always."""
    kit, _ = kit_of(clock, A, B, z_score=2.0)
    backend = ScriptedBackend({"a": [Pause(0.1), "x", Last("y")]}, sleep=clock.sleep)
    for _ in range(100):
        drive(kit, Call("hi"), backend, mode)
    backend.script["a"] = [Pause(5.0), "x", Last("y")]
    before = backend.sent["a"]
    for _ in range(10):
        drive(kit, Call("hi"), backend, mode)
    assert backend.sent["a"] - before <= 3


def test_long_answers_are_not_slow_answers(clock: ManualClock, mode: str) -> None:
    """Five hundred times the tokens in five hundred times the time, or a stream that goes on, open nothing."""
    kit, plugin = kit_of(clock, A)
    backend = ScriptedBackend(sleep=clock.sleep)

    def answered(seconds: float, usage: Usage | None) -> None:
        backend.default = [Pause(0.2), "x", Pause(seconds), Last("y", usage=usage)]  # type: ignore[arg-type]
        drive(kit, Call("hi"), backend, mode)

    for _ in range(100):
        answered(0.1, Usage(10, 10))
    for _ in range(5):
        answered(50.0, Usage(10, 5000))
    if mode in ("stream", "astream"):
        for number in range(105):
            answered(0.1 if number < 100 else 50.0, None)
    assert plugin.breaker("a").state is State.CLOSED


def test_a_provider_has_a_circuit_of_its_own(clock: ManualClock) -> None:
    """Failures at one target of a provider keep calls from its other targets, where that was asked for."""
    first, second = Target("first", "same", "m1"), Target("second", "same", "m2")
    kit, plugin = kit_of(clock, first, second, C, per_provider=True)
    backend = ScriptedBackend({"first": [Failure("server")], "second": [Failure("server")]})
    for _ in range(5):
        assert drive(kit, Call("hi"), backend, "run") == "abc"
    assert plugin.breakers["provider:same"].state is State.OPEN
    assert backend.sent["first"] + backend.sent["second"] == 3


def test_changes_are_told(clock: ManualClock) -> None:
    """Whoever listens hears what changed and why: which statistic, its value and the threshold."""
    kit, _ = kit_of(clock, A)
    changes: list[CircuitChanged] = []
    kit.events.subscribe(CircuitChanged, changes.append)
    for _ in range(3):
        with pytest.raises(Failure):
            drive(kit, Call("hi"), ScriptedBackend({"a": [Failure("server")]}), "run")
    assert [(c.target, c.before, c.after) for c in changes] == [("a", "closed", "open")]
    assert changes[0].why == "consecutive_failures 3, threshold 3"


def test_while_traffic_is_ramped_up_the_rest_goes_elsewhere(clock: ManualClock, mode: str) -> None:
    """A target that has just come back gets what its ramp has room for; all when that is over; nothing when it is open
    again."""
    kit, plugin = kit_of(clock, A, B, success_threshold=1, half_open_requests=1, ramp_seconds=30.0)
    backend, breaker = ScriptedBackend(sleep=clock.sleep), plugin.breaker("a")
    breaker.force_open(1.0)
    clock.advance(1.0)
    drive(kit, Call("hi"), backend, mode)
    assert breaker.state is State.CLOSED
    while breaker.acquire():  # as many others as there is room for
        pass
    drive(kit, Call("hi"), backend, mode)
    assert backend.sent == {"a": 1, "b": 1}
    clock.advance(30.0)
    for _ in range(3):
        drive(kit, Call("hi"), backend, mode)
    assert backend.sent == {"a": 4, "b": 1}
    breaker.force_open(1.0)
    drive(kit, Call("hi"), backend, mode)
    assert backend.sent == {"a": 4, "b": 2}


def test_a_circuit_made_before_the_kit_has_its_clock(clock: ManualClock) -> None:
    """It tells time by that of the kit, as those do that are made when they are first used."""
    plugin = CircuitBreakerPlugin()
    breaker = plugin.breaker("a")
    kit = LLMKit([plugin], [A], clock=clock)
    breaker.force_open(5.0)
    clock.advance(5.0)
    assert drive(kit, Call("hi"), ScriptedBackend(), "run") == "abc"


def test_a_stream_leaves_no_cycle(clock: ManualClock) -> None:
    """When its call is gone nothing is left for the garbage collector."""

    class Mark:
        pass

    kit, _ = kit_of(clock, A)
    gc.disable()
    try:
        call = Call("hi")
        for _ in kit.stream(call, ScriptedBackend()):
            call.attempts[0].state["mark"] = mark = Mark()
        gone = weakref.ref(mark)
        del call, mark
        assert gone() is None
    finally:
        gc.enable()


def test_circuits_are_bounded(clock: ManualClock) -> None:
    """Beyond the bound a closed one makes room; an open one is remembered."""
    kit, plugin = kit_of(clock, A, max_circuits=3)
    plugin.breaker("bad").force_open(60.0)
    for number in range(10):
        plugin.breaker(f"t{number}")
    assert len(plugin.breakers) == 3
    assert "bad" in plugin.breakers
    kit.close()
