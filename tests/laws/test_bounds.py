"""Law 6: nothing waits without a bound. Deadlines of calls, timeouts of attempts, pauses of readers."""

from __future__ import annotations

import asyncio
import math

import pytest

from llmkit_plugins import Ask, Backend, Call, Refused, Target, TimedOut, Wait
from llmkit_plugins.testing import Failure, Last, Pause


@pytest.fixture(params=["run", "stream"])
def sync(request):
    return request.param


@pytest.fixture(params=["arun", "astream"])
def awaited(request):
    return request.param


def waits(seconds):
    def hook(call):
        yield Wait(seconds)

    return hook


def test_waits_take_their_time(scene, plugin, sharing, mode):
    """A ``Wait`` lets exactly its seconds pass, and the attempt starts after it: the limiter's wait is not its."""
    stage = scene(*sharing, plugin(pre_request=waits(2.0), pre_attempt=waits(3.0)))
    call = Call("hi")
    assert stage.drive(mode, call) == "abc"
    assert stage.clock() == 5.0
    assert (call.attempts[0].started, call.attempts[0].finished, call.attempts[0].duration) == (5.0, 5.0, 0.0)


def test_io_in_the_form_of_the_mode(scene, plugin, sharing, mode):
    """An ``Ask`` is run in a sync call and awaited in an async one, and the hook resumes with what it returned."""

    async def arun():
        return "awaited"

    def asks(call):
        said.append((yield Ask(lambda: "run", arun)))

    said = []
    scene(*sharing, plugin(pre_request=asks, pre_attempt=asks)).drive(mode)
    assert said == ["awaited" if mode.startswith("a") else "run"] * 2


@pytest.mark.parametrize("hook", ["pre_request", "pre_attempt"])
def test_a_wait_past_the_deadline_refuses(scene, plugin, mode, hook):
    """It is not waited at all: the hook is thrown a refusal with the seconds it wanted."""
    stage = scene(plugin(**{hook: waits(5.0)}), targets=[Target("a", "p", "m")])
    with pytest.raises(Refused, match="outlast the call's deadline") as caught:
        stage.drive(mode, Call("hi", deadline=4.0))
    assert caught.value.retry_after == 5.0
    assert stage.clock() == 0.0
    assert not stage.backend.sent


def test_a_wait_up_to_the_deadline_is_waited(scene, plugin, sharing, mode):
    """A wait that ends in time is waited, also where the call shares."""
    stage = scene(*sharing, plugin(pre_request=waits(1.0), pre_attempt=waits(2.0)))
    assert stage.drive(mode, Call("hi", deadline=4.0)) == "abc"
    assert stage.clock() == 3.0


def test_a_hook_may_answer_the_refusal_of_its_wait(scene, plugin, sharing, mode):
    """It is thrown in where the hook waits: one that can do without the wait lets the call pass."""

    def obliging(call):
        try:
            yield Wait(math.inf)
        except Refused as refusal:
            refusals.append(refusal)

    refusals = []
    assert scene(*sharing, plugin(pre_request=obliging)).drive(mode) == "abc"
    assert str(refusals[0]) == "a plugin would wait for ever"


def test_a_target_is_not_tried_after_the_deadline(scene, sharing, mode):
    """When an attempt fails after the deadline there is no other one, and the caller gets its failure."""
    stage = scene(*sharing, script={"a": [Pause(5.0), Failure("server")]})
    call = Call("hi", deadline=4.0)
    with pytest.raises((Failure, TimedOut)):
        stage.drive(mode, call)
    assert stage.backend.sent == {"a": 1}


def test_the_deadline_has_passed_before_anything_was_sent(scene, mode):
    """A call that comes too late is timed out without an attempt."""
    stage = scene()
    stage.clock.advance(5.0)
    with pytest.raises(TimedOut):
        stage.drive(mode, Call("hi", deadline=4.0))
    assert stage.counts == {"request": 1, "request error": 1}


def test_the_deadline_passes_while_a_plugin_asks(scene, plugin, sharing, mode):
    """What is never sent is no failure of the provider: the attempt is refused."""

    async def adally():
        await asyncio.sleep(5.0)

    def asks(call):
        yield Ask(lambda: stage.clock.sleep(5.0), adally)

    stage = scene(*sharing, plugin(pre_attempt=asks))
    call = Call("hi", deadline=4.0)
    with pytest.raises((Refused, TimedOut)):
        stage.drive(mode, call)
    assert not stage.backend.sent
    assert {attempt.kind for attempt in stage.first.attempts} == {None}


def test_an_async_attempt_that_takes_too_long(scene, sharing, awaited):
    """The driver stops it at the timeout, as a failure of kind ``timeout``, and the next target is tried."""
    stage = scene(*sharing, script={"a": [Pause(60.0), "x"]})
    call = Call("hi", timeout_seconds=2.0)
    assert stage.drive(awaited, call) == "abc"
    assert (call.attempts[0].kind, call.attempts[0].timeout_seconds, call.attempts[0].duration) == ("timeout", 2.0, 2.0)
    assert stage.clock() == 2.0


def test_the_timeout_bounds_each_next_chunk(scene, sharing):
    """A stream may take the timeout for each chunk; one that stalls longer fails, however much it has said."""
    lively = [Pause(1.5), "x", Pause(1.5), "y", Pause(1.5), Last("z")]
    stage = scene(*sharing, script={"a": lively})
    assert stage.drive("astream", Call("hi", timeout_seconds=2.0)) == "xyz"
    assert stage.clock() == 4.5

    stage = scene(*sharing, script={"a": ["x", Pause(2.5), "y"]})
    call = Call("hi", timeout_seconds=2.0)
    with pytest.raises(TimedOut, match="nothing for 2 s"):
        stage.drive("astream", call)
    assert call.attempts[0].kind == "timeout"
    assert stage.clock() == 2.0


def test_held_back_chunks_do_not_extend_the_timeout(scene, sharing):
    """Up to the first chunk that says something there is one timeout, however many empty ones come before it."""
    stage = scene(*sharing, script={"a": [Pause(1.5), "", Pause(1.5), "x"]})
    call = Call("hi", timeout_seconds=2.0)
    assert stage.drive("astream", call) == "abc"
    assert call.attempts[0].duration == 2.0


def test_the_deadline_bounds_the_attempt(scene, awaited):
    """What is left until the deadline is the attempt's timeout where that is shorter."""
    stage = scene(script={"a": [Pause(1.0), Failure("server")], "b": [Pause(60.0)]})
    call = Call("hi", timeout_seconds=2.0, deadline=2.5)
    with pytest.raises(TimedOut):
        stage.drive(awaited, call)
    assert [attempt.timeout_seconds for attempt in call.attempts] == [2.0, 1.5]
    assert stage.clock() == 2.5


def test_the_deadline_bounds_the_whole_stream(scene):
    """However lively it is, a stream ends at the deadline."""
    stage = scene(script={"a": ["x", *[Pause(1.0), "y"] * 9]})
    with pytest.raises(TimedOut):
        stage.drive("astream", Call("hi", timeout_seconds=2.0, deadline=4.5))
    assert stage.clock() == 4.5


def test_a_timeout_error_of_the_providers_own(scene, sharing, awaited):
    """A client that times out earlier than the driver would is classified by the backend."""
    stage = scene(*sharing, script={"a": [TimeoutError("the client's")]})
    call = Call("hi", timeout_seconds=2.0)
    assert stage.drive(awaited, call) == "abc"
    assert call.attempts[0].kind == "timeout"


@pytest.mark.parametrize(
    ("timeout", "deadline", "handed"), [(None, None, None), (3.0, None, 3.0), (None, 5.0, 4.0), (3.0, 5.0, 3.0)]
)
def test_a_sync_backend_is_handed_its_time(scene, plugin, sharing, sync, timeout, deadline, handed):
    """In a thread nobody can stop a client, so it is told how long it may take, waits before it taken off."""
    stage = scene(*sharing, plugin(pre_attempt=waits(1.0)))
    call = Call("hi", timeout_seconds=timeout, deadline=deadline)
    stage.drive(sync, call)
    assert call.attempts[0].timeout_seconds == handed


class Framework(Backend):
    """Routes and retries by itself: it is sent the whole call."""

    delegates = True

    def __init__(self, *lines):
        self.lines, self.calls = lines, []

    async def asend(self, call, attempt):
        self.calls.append((call, attempt))
        return "".join([chunk async for chunk in self.astream(call, attempt)])

    async def astream(self, call, attempt):
        for line in self.lines:
            if isinstance(line, Pause):
                await asyncio.sleep(line.seconds)
            else:
                yield line

    def send(self, call, attempt):
        return "".join(line for line in self.lines if isinstance(line, str))

    def stream(self, call, attempt):
        return iter(self.lines)


def test_a_framework_that_routes_by_itself(scene, sharing, mode):
    """It is sent the whole call, once, with no attempt; what the caller gets is what it returns."""
    stage = scene(*sharing)
    stage.backend = Framework("x", "y")
    call = Call("hi")
    assert stage.drive(mode, call) == "xy"
    assert call.attempts == []
    assert (call.response.cost, call.response.usage, call.response.model) == (0.0, None, None)
    assert stage.counts == {"request": 1, "request ok": 1}


def test_the_deadline_of_a_call_that_a_framework_routes(scene, awaited):
    """The driver enforces it there too, on the whole and between chunks; the timeout per attempt is the framework's."""
    stage = scene()
    stage.backend = Framework(Pause(3.0), "x", Pause(3.0), "y")
    assert stage.drive(awaited, Call("hi", timeout_seconds=1.0)) == "xy"
    with pytest.raises(TimedOut):
        stage.drive(awaited, Call("hi", deadline=10.0))
    assert stage.clock() == 10.0


def test_a_slow_reader_is_not_a_slow_provider(scene, sharing):
    """The time the reader of a stream takes between chunks is not the attempt's."""
    stage = scene(*sharing, script={"a": [Pause(1.0), "x", Pause(1.0), "y", Pause(1.0), Last("z")]})
    call = Call("hi")
    for _ in stage.kit.stream(call, stage.backend):
        stage.clock.advance(10.0)
    (attempt,) = call.attempts
    assert (attempt.time_to_first_chunk, attempt.paused_seconds, attempt.duration) == (1.0, 30.0, 3.0)


def test_a_slow_async_reader_is_not_a_slow_provider(scene, sharing):
    """Under asyncio too; where the upstream runs by itself nobody holds it up at all."""
    stage = scene(*sharing, script={"a": [Pause(1.0), "", "x", Pause(1.0), "y", Pause(1.0), Last("z")]})
    call = Call("hi")

    async def scenario():
        async for _ in stage.kit.astream(call, stage.backend):
            await asyncio.sleep(10.0)

    stage.arun(scenario)
    (attempt,) = call.attempts
    assert (attempt.time_to_first_chunk, attempt.duration) == (1.0, 3.0)
    assert attempt.paused_seconds == (0.0 if sharing else 40.0)


def test_a_reader_that_leaves_while_it_pauses(scene):
    """The pause it left in is its own too."""
    stage = scene()
    call = Call("hi")
    stream = stage.kit.stream(call, stage.backend)
    next(stream)
    stage.clock.advance(10.0)
    stream.close()
    assert (call.attempts[0].paused_seconds, call.attempts[0].duration) == (10.0, 0.0)
