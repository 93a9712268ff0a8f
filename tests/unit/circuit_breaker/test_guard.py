"""Calls under a breaker: call, acall, decorator and with blocks, sync and async, in threads and tasks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading

import pytest

from llmkit_plugins import CircuitOpen, ConfigError, Refused
from llmkit_plugins.plugins.circuit_breaker import State


class Overloaded(Exception):
    kind = "overloaded"


class BadRequest(Exception):
    kind = "bad_request"


def through_call(breaker, clock, function):
    return breaker.call(function)


def through_acall(breaker, clock, function):
    async def call():
        return function()

    return clock.run(breaker.acall(call))


def through_decorator(breaker, clock, function):
    return breaker(lambda: function())()


def through_async_decorator(breaker, clock, function):
    @breaker
    async def call():
        return function()

    return clock.run(call())


def through_with(breaker, clock, function):
    with breaker:
        return function()


def through_async_with(breaker, clock, function):
    async def call():
        async with breaker:
            return function()

    return clock.run(call())


FORMS = [through_call, through_acall, through_decorator, through_async_decorator, through_with, through_async_with]
every_form = pytest.mark.parametrize("form", FORMS)


def raiser(error):
    def function():
        raise error

    return function


@every_form
def test_what_is_returned_comes_through_and_is_timed(make, clock, form):
    """A guarded call returns what the function returns, and its latency is what the clock says."""
    breaker = make()
    assert form(breaker, clock, lambda: clock.advance(0.25) or "answer") == "answer"
    health = breaker.health()
    assert (health.request_count, health.error_count) == (1, 0)
    assert health.mean_latency_ms == pytest.approx(250.0)


@every_form
@pytest.mark.parametrize("error", [ValueError("x"), Overloaded(), TimeoutError(), ConnectionError()])
def test_what_is_raised_comes_through_and_counts(make, clock, form, error):
    """Exceptions pass unchanged, and five of them open the circuit."""
    breaker = make()
    for _ in range(5):
        with pytest.raises(type(error)) as caught:
            form(breaker, clock, raiser(error))
        assert caught.value is error
    assert breaker.health().error_count == 5
    assert breaker.state is State.OPEN


@every_form
@pytest.mark.parametrize(
    "error",
    [
        BadRequest(),
        asyncio.CancelledError(),
        concurrent.futures.CancelledError(),
        KeyboardInterrupt(),
        GeneratorExit(),
        Refused(),
        CircuitOpen("another"),
    ],
)
def test_what_says_nothing_about_the_target_does_not_count(make, clock, form, error):
    """The caller's own errors, refusals and cancellation pass unchanged and count neither way."""
    breaker = make()
    for _ in range(10):
        with pytest.raises(type(error)):
            form(breaker, clock, raiser(error))
    assert breaker.state is State.CLOSED
    assert breaker.health().request_count == 0


@every_form
def test_an_open_circuit_refuses_without_calling(in_state, clock, form):
    """An open circuit raises CircuitOpen with the target and the wait, and the function is not called."""
    breaker = in_state(State.OPEN)
    called = []
    with pytest.raises(CircuitOpen) as refused:
        form(breaker, clock, lambda: called.append(1))
    assert (refused.value.target, refused.value.retry_after) == ("target", 60.0)
    assert called == []


@every_form
def test_a_cancelled_probe_returns_its_place(in_state, clock, form):
    """A probe that is cancelled blocks nobody."""
    breaker = in_state(State.HALF_OPEN, half_open_requests=1)
    with pytest.raises(asyncio.CancelledError):
        form(breaker, clock, raiser(asyncio.CancelledError()))
    assert breaker.available


@every_form
def test_two_good_probes_close(in_state, clock, form):
    """The guarded forms are probes too."""
    breaker = in_state(State.HALF_OPEN)
    for _ in range(2):
        form(breaker, clock, lambda: clock.advance(0.1))
    assert breaker.state is State.CLOSED


def test_a_predicate_decides_about_errors_without_a_kind(make):
    """is_failure says which exceptions count; an error that has a kind needs no such help."""
    breaker = make(is_failure=lambda error: isinstance(error, OSError))
    for _ in range(10):
        breaker.record_failure(ValueError())
        breaker.record_failure(BadRequest())
    assert breaker.health().request_count == 0
    for error in (OSError(), Overloaded()):
        breaker.record_failure(error)
    assert breaker.health().error_count == 2


def test_a_time_out_of_a_guarded_call_is_a_slow_answer(make, clock, healthy):
    """TimeoutError from a guarded call counts with the time it took."""
    breaker = make(z_score=2.0)
    healthy(breaker)

    def hangs():
        clock.advance(30.0)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        breaker.call(hangs)
    assert breaker.state is State.OPEN


def test_a_clock_that_stands_or_stumbles_breaks_no_call(make, clock):
    """Calls that take no time, or less, are answered as any other."""
    breaker = make(clock=iter(range(100, 0, -1)).__next__)
    assert breaker.call(lambda: "answer") == "answer"


def test_arguments_and_names_survive(make):
    """Arguments are passed on as they are, and a decorated function keeps its name and kind."""
    breaker = make()

    @breaker
    def add(one, two=2):
        "Adds."
        return one + two

    @breaker
    async def later(one):
        return one

    assert breaker.call(lambda *args, **kwargs: (args, kwargs), 1, b=2) == ((1,), {"b": 2})
    assert add(1, two=3) == 4
    assert (add.__name__, add.__doc__) == ("add", "Adds.")
    assert inspect.iscoroutinefunction(later)
    assert not inspect.iscoroutinefunction(add)


def test_a_method_can_be_decorated(make):
    """A decorated method is still a method."""
    breaker = make()

    class Client:
        answer = 42

        @breaker
        def ask(self):
            return self.answer

    assert Client().ask() == 42


def test_generators_are_refused(make):
    """A function that answers in pieces is refused when it is decorated, with what to do instead."""

    def pieces():
        yield 1

    async def apieces():
        yield 1

    for function in (pieces, apieces):
        with pytest.raises(ConfigError, match="record_first_chunk"):
            make()(function)


def test_a_with_block_gives_the_permit(in_state):
    """Inside the block, the stream's pieces can be recorded with the block's own permit."""
    breaker = in_state(State.HALF_OPEN, success_threshold=1)
    with breaker as permit:
        breaker.record_first_chunk(0.1, permit=permit)
        assert breaker.state is State.CLOSED


def test_blocks_nest(make, clock):
    """Blocks of one breaker within each other are timed each for itself."""
    breaker = make()
    with breaker:
        clock.advance(1.0)
        with breaker:
            clock.advance(2.0)
    health = breaker.health()
    assert health.request_count == 2
    assert health.mean_latency_ms == pytest.approx((2.0 + 3.0) / 2 * 1e3)


def test_blocks_in_generators_may_end_out_of_order(make):
    """Two generators that interleave their blocks leave nothing behind."""

    def guarded():
        with breaker:
            yield

    breaker = make()
    first, second = guarded(), guarded()
    for generator in (first, second):
        next(generator)
    for generator in (first, second):
        next(generator, None)
    assert breaker.health().request_count == 2
    with breaker:
        pass
    assert breaker.health().request_count == 3


def test_blocks_of_two_breakers_may_cross(make, clock):
    """Generators that hold blocks of two breakers, and end in the order they began, are timed each for itself."""

    def guarded(breaker):
        with breaker:
            yield

    first, second = make(), make()
    generators = [guarded(first), guarded(second)]
    for generator in generators:
        next(generator)
        clock.advance(1.0)
    for generator in generators:
        next(generator, None)
        clock.advance(1.0)
    assert first.health().mean_latency_ms == second.health().mean_latency_ms == pytest.approx(2000.0)


def test_a_block_that_ends_elsewhere_is_no_error(in_state, in_threads, clock):
    """A block that another thread closes is not recorded there, and its place comes back by its lease."""

    def guarded():
        with breaker:
            yield

    breaker = in_state(State.HALF_OPEN, half_open_requests=1)
    generator = guarded()
    next(generator)
    assert in_threads(generator.close) == [None]
    assert not breaker.available
    clock.advance(60.0)
    assert breaker.available


def test_tasks_have_their_own_blocks(make, clock):
    """Blocks of tasks that run at the same time are timed each for itself."""
    breaker = make()

    async def sleeper(seconds):
        async with breaker:
            await asyncio.sleep(seconds)

    async def both():
        await asyncio.gather(sleeper(1.0), sleeper(3.0))

    clock.run(both())
    assert breaker.health().mean_latency_ms == pytest.approx(2000.0)


def test_a_real_cancellation_counts_neither_way(make, clock):
    """A task that is cancelled while it waits for the target leaves no trace."""
    breaker = make()

    async def scenario():
        task = asyncio.ensure_future(breaker.acall(asyncio.sleep, 60.0))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    clock.run(scenario())
    assert breaker.health().request_count == 0


@pytest.mark.parametrize("state", [State.CLOSED, State.HALF_OPEN])
def test_guarded_calls_run_in_parallel(in_state, in_threads, state):
    """Four threads are inside their guarded calls at the same time."""
    breaker = in_state(state, half_open_requests=4)
    inside = threading.Barrier(4, timeout=20.0)
    assert in_threads(*[lambda: breaker.call(inside.wait) is not None] * 4) == [True] * 4


def test_threads_never_get_more_probes_than_allowed(in_state, in_threads):
    """Of many threads that ask at once, exactly the allowed number gets a probe, and nobody waits."""
    breaker = in_state(State.HALF_OPEN, half_open_requests=3)
    start = threading.Barrier(8, timeout=20.0)

    def ask():
        start.wait()
        return sum(breaker.acquire() is not None for _ in range(200))

    assert sum(in_threads(*[ask] * 8)) == 3


def test_one_of_many_threads_opens(make, in_threads):
    """However many threads see the target fail, it is opened once, for the base time."""
    breaker = make()
    told = []
    breaker.listeners.append(told.append)
    start = threading.Barrier(8, timeout=20.0)

    def fail():
        start.wait()
        for _ in range(50):
            breaker.record_failure("server", permit=breaker.acquire())

    in_threads(*[fail] * 8)
    assert [move.after for move in told] == [State.OPEN]
    assert breaker.retry_after() == 60.0


@pytest.mark.parametrize("hook", ["listener", "random", "is_failure", "clock"])
def test_nobodys_code_runs_under_a_lock(make, in_threads, clock, hook):
    """While a listener, the random source, the predicate or the clock runs, another thread can use the breaker."""

    def used_elsewhere(*_):
        if not busy:
            busy.append(1)
            outcomes.extend(in_threads(lambda: breaker.release(breaker.acquire()) or breaker.state))
            busy.pop()
        return 0.5 if hook == "random" else clock.now

    busy, outcomes = [1], []
    options = {"random": used_elsewhere, "is_failure": used_elsewhere, "clock": used_elsewhere}
    breaker = make(**({hook: options[hook]} if hook in options else {}))
    if hook == "listener":
        breaker.listeners.append(used_elsewhere)
    busy.clear()
    for _ in range(5):
        breaker.record_failure(ValueError())
    clock.advance(60.0)
    assert breaker.state is State.HALF_OPEN
    assert outcomes
    assert all(isinstance(outcome, State) for outcome in outcomes)
