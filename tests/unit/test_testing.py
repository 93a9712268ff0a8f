"""The testing kit itself: a clock that is moved by hand, a backend that plays a script, one scenario in all modes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

import llmkit_plugins.testing
from llmkit_plugins import Backend, Call, LLMKit, Target, Usage
from llmkit_plugins.testing import (
    MODES,
    CancelAt,
    Failure,
    Last,
    ManualClock,
    Pause,
    Recorder,
    ScriptedBackend,
    adrive,
    drive,
)

A = Target("a", "p", "m")


# -- the clock --


def test_a_clock_that_is_moved_by_hand():
    """It stands still until somebody moves it, and never goes backwards."""
    clock = ManualClock(10.0)
    assert clock() == clock() == 10.0
    clock.advance(2.5)
    clock.sleep(0.5)
    assert clock() == 13.0
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="cannot go back"):
            clock.advance(wrong)


def test_an_event_loop_on_a_manual_clock():
    """What waits for timers passes at once, in the order of their times."""
    clock, order = ManualClock(), []

    async def sleeper(seconds):
        await asyncio.sleep(seconds)
        order.append((seconds, clock()))

    async def scenario():
        await asyncio.gather(sleeper(3600.0), sleeper(1.0), sleeper(60.0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(86400.0):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert clock.run(scenario()) == clock() == 90000.0
    assert order == [(1.0, 1.0), (60.0, 60.0), (3600.0, 3600.0)]


def test_what_others_do_to_the_clock_counts_for_timers():
    """A hook that moves the clock makes timers due."""
    clock = ManualClock()

    async def scenario():
        asyncio.get_running_loop().call_soon(clock.advance, 5.0)
        await asyncio.sleep(3.0)

    clock.run(scenario())
    assert clock() == 5.0


def test_a_manual_loop_waits_for_threads():
    """Where no timer is pending it waits for whoever may wake it, as any loop does."""

    async def scenario():
        return await asyncio.to_thread(threading.get_ident)

    assert ManualClock().run(scenario()) != threading.get_ident()


def test_a_manual_loop_answers_what_is_ready():
    """Something to read is read before the clock moves."""
    clock = ManualClock()

    async def answer(reader, writer):
        writer.write(await reader.readexactly(2))
        writer.close()

    async def scenario():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hi")
            answered = await reader.readexactly(2)
            writer.close()
        return answered

    assert clock.run(scenario()) == b"hi"


# -- the scripted backend --


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


def play(mode, lines, call=None):
    """What a call gets from a target that plays *lines*, and the backend."""
    clock = ManualClock()
    backend = ScriptedBackend({"a": lines}, sleep=clock.sleep)
    answer = drive(LLMKit([], [A], clock=clock), call or Call(), backend, mode)
    return answer, backend, clock


def test_without_a_script(mode):
    """A target says three texts and what they cost."""
    backend, call = ScriptedBackend(), Call()
    assert drive(LLMKit([], [A]), call, backend, mode) == "abc"
    assert call.attempts[0].usage == Usage(5, 3)
    assert call.attempts[0].finish_reason == "stop"
    assert (backend.sent, backend.opened, backend.closed, backend.gone) == ({"a": 1}, 1, 1, 0)


def test_pauses(mode):
    """They pass on the clock, in every mode."""
    answer, _, clock = play(mode, [Pause(2.0), "x", Pause(3.0), "y"])
    assert (answer, clock()) == ("xy", 5.0)


def test_failures(mode):
    """An exception is raised where it stands, a class as well as an instance."""
    for failure in (Failure("auth", 3.0), Failure):
        with pytest.raises(Failure):
            play(mode, [failure])
    with pytest.raises(ZeroDivisionError):
        play(mode, [lambda: 1 / 0])


def test_functions(mode):
    """A function is called, and what it returns is the line; it may itself return a function."""
    answer, _, clock = play(mode, [lambda: "x", lambda: Pause(2.0), lambda: lambda: Last("y", Usage(1, 1), "length")])
    assert (answer, clock()) == ("xy", 2.0)


def test_the_last_word(mode):
    """It writes usage and finish reason onto the attempt."""
    call = Call()
    play(mode, ["x", Last("y", Usage(7, 2), "length")], call)
    assert (call.attempts[0].usage.input_tokens, call.attempts[0].finish_reason) == (7, "length")


def test_who_was_gone():
    """A stream that was left counts as closed because its reader was gone."""
    backend = ScriptedBackend()
    stream = LLMKit([], [A]).stream(Call(), backend)
    next(stream)
    stream.close()
    assert (backend.opened, backend.closed, backend.gone) == (1, 1, 1)


def test_a_backend_that_is_sent_a_whole_call(mode):
    """Without an attempt it plays the default."""

    class Delegating(ScriptedBackend):
        delegates = True

    backend = Delegating()
    assert drive(LLMKit([], []), Call(), backend, mode) == "abc"
    assert backend.sent == {"": 1}


# -- driving --


def test_chunks_that_are_no_texts():
    """They come as a list."""

    class Numbers(Backend):
        def stream(self, call, attempt):
            return iter([1, 2])

    assert drive(LLMKit([], [A]), Call(), Numbers(), "stream") == [1, 2]


def test_driving_within_a_loop():
    """``adrive`` is for the async modes."""
    kit, backend = LLMKit([], [A]), ScriptedBackend()
    assert asyncio.run(adrive(kit, Call(), backend, "arun")) == "abc"
    with pytest.raises(ValueError, match="'run' is not an async mode"):
        asyncio.run(adrive(kit, Call(), backend, "run"))


# -- the recorder --


def test_the_recorder_sees_an_end_that_is_missing_or_doubled():
    """What began and did not end is open, and so is what ended twice."""
    recorder, call = Recorder(), Call()
    recorder.llmkit_pre_request(call)
    assert recorder.open == {call.id: 1}
    recorder.llmkit_error(call, KeyError())
    assert not recorder.open
    recorder.llmkit_error(call, KeyError())
    assert recorder.open == {call.id: -1}


# -- cancelling --


def test_cancelling_at_each_await():
    """The task is cancelled at the n-th time it waits, or not at all where it does not wait so often."""
    passed = []

    async def three_waits():
        for number in range(3):
            await asyncio.sleep(0)
            passed.append(number)
        return "done"

    async def scenario(at):
        caller = CancelAt(three_waits(), at)

        async def make():
            return await caller

        task = asyncio.create_task(make())
        await asyncio.wait([task])
        return caller.suspensions, "cancelled" if task.cancelled() else task.result()

    assert [asyncio.run(scenario(at)) for at in (1, 2, 3, 4)] == [
        (1, "cancelled"),
        (2, "cancelled"),
        (3, "cancelled"),
        (3, "done"),
    ]
    assert passed == [0, 0, 1, 0, 1, 2]


def test_what_is_awaited_may_swallow_the_cancellation():
    """Then it goes on as it would."""

    async def stubborn():
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "done"

    async def scenario():
        return await CancelAt(stubborn(), 1)

    assert asyncio.run(scenario()) == "done"


def test_cancelling_needs_a_task():
    """Without one there is nothing to cancel."""

    async def scenario():
        steps, told = CancelAt(asyncio.sleep(0), 1).__await__(), asyncio.get_running_loop().create_future()

        def step():
            try:
                next(steps)
            except RuntimeError as error:
                told.set_result(str(error))

        asyncio.get_running_loop().call_soon(step)
        return await told

    assert asyncio.run(scenario()) == "CancelAt is awaited in a task"


# -- imports --


def test_every_public_name_is_there():
    """What the kit promises can be imported; what it does not, cannot."""
    pytest.importorskip("aiohttp")
    for name in llmkit_plugins.testing.__all__:
        assert getattr(llmkit_plugins.testing, name)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = llmkit_plugins.testing.Nothing


def test_neither_pytest_nor_aiohttp_is_needed():
    """The kit imports, and drives, without them."""
    program = (
        "import sys; sys.modules['pytest'] = sys.modules['aiohttp'] = None\n"
        "from llmkit_plugins import Call, LLMKit, Target\n"
        "from llmkit_plugins.testing import ManualClock, ScriptedBackend, drive\n"
        "kit = LLMKit([], [Target('a', 'p', 'm')], clock=ManualClock())\n"
        "print(drive(kit, Call(), ScriptedBackend(), 'astream'))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "abc"
