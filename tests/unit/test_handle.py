"""A call that a framework sends by itself: begun, told of, and ended exactly once, by whomever."""

from __future__ import annotations

import asyncio
import random
import sys
from threading import Barrier, Event

import pytest

from llmkit_plugins import (
    Answer,
    Ask,
    Call,
    LLMKit,
    NoTarget,
    RateLimited,
    Refused,
    Response,
    Share,
    Target,
    TimedOut,
    Usage,
    Wait,
)
from llmkit_plugins.testing import Failure, ManualClock, Recorder

A = Target("a", "p", "m", input_price=1e6, output_price=1e6)
OK = {"request": 1, "route": 1, "attempt": 1, "attempt ok": 1, "request ok": 1}


class Stage:
    """A kit with a recorder at each end."""

    def __init__(self, plugins, **options):
        self.clock = ManualClock()
        self.first, self.last = Recorder(), Recorder()
        self.kit = LLMKit([self.first, *plugins, self.last], [A], clock=self.clock, **options)

    @property
    def counts(self):
        return dict(self.first.counts)

    def begin(self, way, call, **options):
        """A handle, the way the test wants it."""
        if way in ("begin", "attempt"):
            return getattr(self.kit, way)(call, A, **options)
        return self.clock.run(getattr(self.kit, way)(call, A, **options))


@pytest.fixture
def stage():
    """Makes stages, and sees that nothing is left open on them."""
    made = []

    def make(*plugins, **options):
        made.append(Stage(plugins, **options))
        return made[-1]

    yield make
    for each in made:
        assert not each.first.open
        assert not each.last.open
        assert not each.kit.leases


@pytest.fixture(params=["begin", "abegin"])
def way(request):
    return request.param


@pytest.fixture(params=["attempt", "aattempt"])
def attempting(request):
    return request.param


def waits(seconds):
    def hook(call):
        yield Wait(seconds)

    return hook


@pytest.mark.parametrize("stream", [False, True])
def test_it_ends_well(stage, way, stream):
    """The framework tells of the first chunk and the end, and writes what it learns onto the attempt."""
    scene, call = stage(), Call(stream=stream)
    handle = scene.begin(way, call)
    scene.clock.advance(1.0)
    handle.first_chunk()
    scene.clock.advance(2.0)
    handle.attempt.usage = Usage(5, 3)
    handle.finish("raw")
    assert scene.counts == OK
    assert (call.outcome, call.response.raw, call.response.cost) == ("ok", "raw", 8.0)
    assert (handle.attempt.duration, handle.attempt.time_to_first_chunk) == (3.0, 1.0 if stream else None)


@pytest.mark.parametrize("error", [Failure("server"), StopIteration(), Refused("elsewhere")])
def test_it_ends_badly(stage, way, error):
    """``fail`` raises nothing: the framework raises the error itself."""
    scene, call = stage(), Call()
    handle = scene.begin(way, call)
    handle.fail(error)
    assert call.outcome == ("refused" if isinstance(error, Refused) else "error")
    assert handle.attempt.kind == getattr(error, "kind", None)
    assert len(scene.first.errors) == 1
    assert error.__traceback__ is None


@pytest.mark.parametrize(
    "end",
    [lambda handle: handle.cancel(), lambda handle: handle.fail(asyncio.CancelledError())],
    ids=["cancel", "fail"],
)
def test_it_is_cancelled(stage, way, end):
    """A caller who went away says nothing about the provider."""
    scene, call = stage(), Call()
    handle = scene.begin(way, call)
    end(handle)
    assert (call.outcome, handle.attempt.outcome, handle.attempt.kind) == ("cancelled", "cancelled", None)


def test_cancelled_after_the_last_word(stage, way):
    """A stream that is left after its finish reason has answered."""
    scene, call = stage(), Call(stream=True)
    handle = scene.begin(way, call)
    handle.first_chunk()
    handle.attempt.finish_reason = "stop"
    handle.cancel()
    assert (call.outcome, handle.attempt.outcome) == ("ok", "ok")


ENDS = {
    "finish": lambda handle: handle.finish(),
    "fail": lambda handle: handle.fail(Failure("server")),
    "cancel": lambda handle: handle.cancel(),
    "first_chunk": lambda handle: handle.first_chunk(),
}


@pytest.mark.parametrize("then", ENDS)
@pytest.mark.parametrize("end", ["finish", "fail", "cancel"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_comes_after_the_end_is_ignored(stage, way, stream, end, then):
    """It ends once, however often and in whatever way it is told."""
    scene, call = stage(), Call(stream=stream)
    handle = scene.begin(way, call)
    handle.first_chunk()
    handle.first_chunk()
    ENDS[end](handle)
    outcome, counts = call.outcome, scene.counts
    ENDS[then](handle)
    assert (call.outcome, scene.counts) == (outcome, counts)


def test_a_stream_that_ends_untold(stage, way):
    """A stream whose first chunk nobody told of said something at its end at the latest."""
    scene, call = stage(), Call(stream=True)
    handle = scene.begin(way, call)
    scene.clock.advance(2.0)
    handle.finish()
    assert handle.attempt.first_chunk == 2.0


def test_no_failover(stage, way):
    """The framework sends to one target: whatever the error, no other one is tried."""
    scene = stage()
    scene.kit.targets = (A, Target("b", "p", "m"))
    call = Call()
    scene.begin(way, call).fail(Failure("server"))
    assert len(call.attempts) == 1


@pytest.mark.parametrize("hook", ["pre_request", "route", "pre_attempt"])
def test_a_refusal(stage, plugin, way, hook):
    """It is raised where the call would begin, and there is no handle to end."""

    def refuse(call):
        raise RateLimited("requests", retry_after=3.0)

    scene, call = stage(plugin(**{hook: refuse})), Call()
    with pytest.raises(RateLimited):
        scene.begin(way, call)
    assert call.outcome == "refused"


def test_a_target_that_does_not_serve_the_model(stage, way):
    """It is refused as any other target would be."""
    scene = stage()
    target = Target("a", "p", "m", serves=frozenset({"x"}))
    with pytest.raises(NoTarget):
        if way == "begin":
            scene.kit.begin(Call(model="y"), target)
        else:
            scene.clock.run(scene.kit.abegin(Call(model="y"), target))


def test_a_caller_who_cannot_wait(stage, plugin):
    """A plugin that would wait is thrown a refusal with the seconds it wanted; one that need not is not."""
    scene = stage(plugin("patient", pre_request=waits(0.0)), plugin("slow", pre_attempt=waits(5.0)))
    with pytest.raises(Refused, match="cannot wait 5 s") as caught:
        scene.begin("begin", Call())
    assert caught.value.retry_after == 5.0
    assert scene.clock() == 0.0


def test_a_caller_who_can_wait(stage, plugin):
    """Where the callback may wait, or is awaited, it is waited."""
    scene = stage(plugin(pre_request=waits(2.0), pre_attempt=waits(3.0)))
    scene.begin("begin", Call(), may_wait=True).finish()
    scene.begin("abegin", Call()).finish()
    assert scene.clock() == 10.0


def test_the_deadline(stage, plugin, way):
    """A wait past it refuses, and a call that comes after it is timed out."""
    scene = stage(plugin(pre_attempt=waits(5.0)))
    options = {"may_wait": True} if way == "begin" else {}
    with pytest.raises(Refused, match="outlast"):
        scene.begin(way, Call(deadline=3.0), **options)
    scene.clock.advance(4.0)
    with pytest.raises(TimedOut):
        scene.begin(way, Call(deadline=3.0), **options)


def test_io(stage, plugin, way):
    """A plugin may ask, in the form that suits the caller, and hears what came or what went wrong."""

    async def arun():
        return "awaited"

    async def afail():
        raise OSError

    def fail():
        raise OSError

    def asks(call):
        said.append((yield Ask(lambda: "run", arun)))
        try:
            yield Ask(fail, afail)
        except OSError:
            said.append("failed")

    said = []
    stage(plugin(pre_request=asks)).begin(way, Call()).finish()
    assert said == ["awaited" if way == "abegin" else "run", "failed"]


def test_nonsense(stage, plugin, way):
    """What is no step is the hook's bug."""

    def nonsense(call):
        yield "nonsense"

    scene = stage(plugin(pre_request=nonsense, pre_attempt=nonsense))
    scene.begin(way, Call()).finish()
    assert sum(scene.kit.bugs.values()) == 2


@pytest.mark.parametrize("said", [Answer(Response("x")), Share("key")], ids=["answer", "share"])
def test_what_a_framework_cannot_do(stage, plugin, way, said):
    """It sends by itself: a plugin's answer is not taken, an upstream not shared, and all plugins are asked."""
    scene, call = stage(plugin(pre_request=lambda call: said)), Call()
    scene.begin(way, call).finish("sent")
    assert call.response.raw == "sent"
    assert call.response.shared is None
    assert scene.counts == OK
    assert scene.last.counts["request"] == (0 if isinstance(said, Answer) else 1)


def test_cancelled_while_it_begins(stage, plugin):
    """A callback that is cancelled while a plugin waits ends the call."""
    scene, call = stage(plugin(pre_attempt=waits(60.0))), Call()

    async def scenario():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(scene.kit.abegin(call, A), 1.0)

    scene.clock.run(scenario())
    assert call.outcome == "cancelled"


def test_interrupted_while_it_begins(stage, plugin):
    """So does Ctrl-C."""

    def interrupt():
        raise KeyboardInterrupt

    def asks(call):
        yield Ask(interrupt, None)

    scene, call = stage(plugin(pre_attempt=asks)), Call()
    with pytest.raises(KeyboardInterrupt):
        scene.begin("begin", call)
    assert call.outcome == "cancelled"


def test_a_lease_that_runs_out(stage, way):
    """What a framework never ends is cancelled when the next call begins after its time; what is younger is not."""
    scene = stage(lease_seconds=10.0)
    forgotten, young = Call(), Call()
    scene.begin(way, forgotten)
    scene.clock.advance(6.0)
    handle = scene.begin(way, young)
    assert (forgotten.outcome, len(scene.kit.leases)) == (None, 2)
    scene.clock.advance(4.0)
    scene.begin(way, Call()).finish()
    assert (forgotten.outcome, young.outcome) == ("cancelled", None)
    handle.finish()
    assert young.outcome == "ok"


def test_a_long_stream_is_not_forgotten(stage, way):
    """While chunks come it goes on, however long; when they stop, its lease ends it."""
    scene, call = stage(lease_seconds=10.0), Call(stream=True)
    handle = scene.begin(way, call)
    handle.first_chunk()
    outcomes = []
    for chunks in (1, 3, 0):
        for _ in range(chunks):
            handle.chunk("word")
        scene.clock.advance(10.0)
        scene.begin(way, Call()).finish()
        outcomes.append(call.outcome)
    assert outcomes == [None, None, "cancelled"]
    assert handle.attempt.chunks == 5


def test_each_lease_runs_out_in_its_time(stage, way):
    """Also where older ones have ended meanwhile, or ran out before it."""
    scene, calls = stage(lease_seconds=10.0), [Call() for _ in range(4)]
    handles = []
    for call in calls:
        handles.append(scene.begin(way, call))
        scene.clock.advance(3.0)
    handles[1].finish()
    outcomes = []
    for _ in range(4):
        scene.begin(way, Call()).finish()
        outcomes.append([call.outcome for call in calls])
        scene.clock.advance(3.0)
    gone, ended = "cancelled", "ok"
    assert outcomes == [
        [gone, ended, None, None],  # twelve seconds after the first began
        [gone, ended, None, None],
        [gone, ended, gone, None],
        [gone, ended, gone, gone],
    ]


def test_an_end_that_comes_after_the_lease(stage, way):
    """It is too late: the call has been cancelled."""
    scene, call = stage(lease_seconds=10.0), Call(stream=True)
    handle = scene.begin(way, call)
    scene.clock.advance(10.0)
    scene.begin(way, Call()).finish()
    handle.first_chunk()
    handle.finish()
    assert call.outcome == "cancelled"


def test_closing_the_kit_ends_what_is_open(stage, way):
    """Whatever their leases, all open calls are cancelled."""
    scene, calls = stage(), [Call(), Call(), Call()]
    for call in calls:
        scene.begin(way, call)
    scene.kit.close()
    assert [call.outcome for call in calls] == ["cancelled"] * 3


def test_an_attempt_of_a_call_under_way(stage, attempting):
    """A framework that routes by itself tells of each attempt; the request is the driver's to end."""
    scene, call = stage(), Call(stream=True)
    handle = scene.begin(attempting, call)
    handle.fail(Failure("rate_limit", retry_after=3.0))
    second = scene.begin(attempting, call)
    second.first_chunk()
    second.finish("raw")
    assert [(attempt.number, attempt.outcome, attempt.kind) for attempt in call.attempts] == [
        (1, "error", "rate_limit"),
        (2, "ok", None),
    ]
    assert call.attempts[0].retry_after == 3.0
    assert scene.counts == {"attempt": 2, "attempt error": 1, "attempt ok": 1}
    assert call.outcome is None


def test_an_attempt_that_is_refused(stage, plugin, attempting):
    """The framework hears of it before it sends."""

    def refuse(call):
        raise RateLimited("requests", retry_after=3.0)

    scene, call = stage(plugin(pre_attempt=refuse)), Call()
    with pytest.raises(RateLimited):
        scene.begin(attempting, call)
    assert call.attempts[0].outcome == "refused"


def test_attempts_are_leased_too(stage, attempting):
    """An attempt that is never ended is cancelled when a later one begins."""
    scene, call = stage(lease_seconds=10.0), Call()
    scene.begin(attempting, call)
    scene.clock.advance(10.0)
    scene.begin(attempting, call).finish()
    assert [attempt.outcome for attempt in call.attempts] == ["cancelled", "ok"]


def test_an_attempt_in_which_nobody_can_wait(stage, plugin):
    """By default an attempt may wait; where it may not, a plugin that would is refused."""
    scene = stage(plugin(pre_attempt=waits(2.0)))
    scene.begin("attempt", Call()).finish()
    assert scene.clock() == 2.0
    with pytest.raises(Refused, match="cannot wait 2 s"):
        scene.begin("attempt", Call(), may_wait=False)


def test_a_bug_that_is_to_be_raised(stage, plugin, way):
    """With ``on_plugin_error="raise"`` whoever ends the call gets it, and the others are told all the same."""
    scene = stage(plugin(post_attempt=lambda call: 1 / 0), on_plugin_error="raise")
    for end in ("finish", "fail"):
        handle = scene.begin(way, Call())
        with pytest.raises(ZeroDivisionError):
            ENDS[end](handle)


def test_plugins_that_change_while_it_is_open(stage, way):
    """It is told to those that were asked."""
    scene, late = stage(), Recorder()
    handle = scene.begin(way, Call())
    scene.kit.unregister(scene.first)
    scene.kit.register(late)
    handle.finish()
    assert scene.counts == OK
    assert not late.counts


def test_threads_that_race_for_the_end(stage, in_threads):
    """Whoever is first ends it, and everything else is ignored: one end, told once, without an error."""
    scene = stage(lease_seconds=1.0)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for turn in range(60):
            call = Call(stream=turn % 2 == 0)
            handle, start = scene.kit.begin(call, A), Barrier(5)

            def end(how, handle=handle, start=start):
                start.wait(20.0)
                how(handle)

            ways = [*ENDS.values(), lambda handle: scene.kit.leases.close()]
            random.Random(turn).shuffle(ways)
            assert in_threads(*[lambda how=how: end(how) for how in ways]) == [None] * 5
            assert call.outcome in ("ok", "error", "cancelled")
    finally:
        sys.setswitchinterval(usual)
    assert scene.first.counts["request"] == 60


def test_chunks_are_heard_by_who_wants_to(stage, plugin):
    """The framework's adapter hands them over; a listener's bug is counted, and hurts nobody."""

    def listen(attempt):
        attempt.on_chunk = [lambda chunk: 1 / 0, heard.append]

    heard = []
    made = stage(plugin(pre_attempt=listen))
    handle = made.begin("begin", call := Call(stream=True))
    handle.chunk("")
    handle.first_chunk()
    handle.chunk("x")
    handle.finish()
    assert (heard, call.outcome) == (["", "x"], "ok")
    assert handle.attempt.chunks == 2  # the first that said something, and the one after it
    assert sum(made.kit.bugs.values()) == 2


def test_an_end_that_comes_while_the_first_chunk_is_told(stage, plugin, in_threads):
    """One thread tells of the end while another still tells of the first chunk: it waits, and ends the call."""
    telling, ended = Event(), Event()

    def listen(attempt):
        attempt.on_first_chunk = [lambda: (telling.set(), ended.wait(0.05))]

    def finish():
        assert telling.wait(20.0)
        try:
            handle.finish()
        finally:
            ended.set()

    call = Call(stream=True)
    handle = stage(plugin(pre_attempt=listen)).begin("begin", call)
    assert in_threads(handle.first_chunk, finish) == [None, None]
    assert call.outcome == "ok"


def test_threads_that_begin_and_expire(in_threads):
    """Leases run out in one thread while others begin and end calls, and each call ends once."""
    scene = Stage([], lease_seconds=0.0)

    def begin(forget):
        def body():
            for _ in range(100):
                handle = scene.kit.begin(Call(), A)
                if not forget:
                    handle.finish()

        return body

    assert in_threads(begin(True), begin(False), begin(False)) == [None] * 3
    scene.kit.close()
    assert not scene.first.open
    assert scene.first.counts["request"] == 300


def test_a_lease_list_that_changes_meanwhile(stage):
    """Where another thread grants or ends one just then, the next call sees to the rest."""
    from llmkit_plugins.engine.handle import Leases

    class Racing(dict):
        def items(self):
            raise RuntimeError("dictionary changed size during iteration")

    leases = Leases(ManualClock(), 1.0)
    leases.ends = Racing({"handle": 0.0})
    leases.expire(5.0)
    assert len(leases) == 1
