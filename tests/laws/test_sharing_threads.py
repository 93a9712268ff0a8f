"""The flights of threads: whoever needs the next chunk pulls it, for all."""

from __future__ import annotations

import random
import sys
from threading import Event, Thread

import pytest

from llmkit_plugins import Ask, Call, LLMKit, Refused, Target, TimedOut, UpstreamLost, Wait
from llmkit_plugins.testing import Failure, Pause, ScriptedBackend, drive

pytestmark = pytest.mark.usefixtures("collector")

LETTERS = "abcdefghijklmnopqrst"


@pytest.fixture(params=["run", "stream"])
def sync(request):
    return request.param


def test_many_threads_one_upstream(scene, share, sync, in_threads, eventually):
    """While one thread sends, the others wait for what it gets, and each has a request of its own."""

    def send():
        eventually(lambda: stage.aboard() == 8)
        return "x"

    stage = scene(share(), script={"a": [send, "y"]})
    assert in_threads(*[lambda: drive(stage.kit, Call("hi"), stage.backend, sync)] * 8) == ["xy"] * 8
    assert stage.backend.sent == {"a": 1}
    assert stage.counts["request shared"] == 7


def test_one_reader_after_the_other(scene, share):
    """A stream that is read between the chunks of another one gets the same chunks from the same upstream."""
    stage = scene(share(), script={"a": ["x", "y", "z"]})
    first, second = (stage.kit.stream(Call("hi"), stage.backend) for _ in range(2))
    assert [next(first), next(second), next(second), next(first)] == ["x", "x", "y", "y"]
    assert (list(second), list(first)) == (["z"], ["z"])
    assert stage.backend.sent == {"a": 1}


def test_what_is_not_shared(scene, share):
    """A whole answer does not come from a stream that is under way, nor from that of another key."""
    stage = scene(share())
    stream = stage.kit.stream(Call("hi"), stage.backend)
    assert next(stream) == "a"
    assert stage.kit.call(Call("hi"), stage.backend).raw == "abc"
    assert "".join(stage.kit.stream(Call("hi", tenant="t"), stage.backend)) == "abc"
    assert list(stream) == ["b", "c"]
    assert stage.backend.sent == {"a": 3}


def test_a_reader_that_dawdles_holds_up_nobody(scene, share, in_threads):
    """Who has taken a chunk does not keep the turn to pull."""
    dawdling, done = Event(), Event()
    stage = scene(share(), script={"a": list("abcde")})

    def slow():
        stream = stage.kit.stream(Call("hi"), stage.backend)
        answer = next(stream)
        dawdling.set()
        assert done.wait(20.0)
        return answer + "".join(stream)

    def fast():
        assert dawdling.wait(20.0)
        answer = "".join(stage.kit.stream(Call("hi"), stage.backend))
        done.set()
        return answer

    assert in_threads(slow, fast) == ["abcde"] * 2
    assert stage.backend.sent == {"a": 1}


def test_followers_are_not_starved(scene, share, in_threads):
    """A follower reads along with the one who pulls: it is woken at each chunk, not at the end."""
    chunks, first_read = 40, Event()
    steps = [Event() for _ in range(chunks)]

    def step(number):
        def say():
            if number > 1:
                assert steps[number - 2].wait(20.0)  # the follower has read the chunk before the last one
            return "x"

        return say

    stage = scene(share(), script={"a": [step(number) for number in range(chunks)]})

    def pull():
        stream = stage.kit.stream(Call("hi"), stage.backend)
        answer = next(stream)
        first_read.set()
        return answer + "".join(stream)

    def follow():
        assert first_read.wait(20.0)
        answer = ""
        for number, chunk in enumerate(stage.kit.stream(Call("hi"), stage.backend)):
            steps[number].set()
            answer += chunk
        return answer

    assert in_threads(pull, follow) == ["x" * chunks] * 2


@pytest.mark.parametrize("read", [1, 2])
def test_the_reader_who_pulled_leaves(scene, share, read):
    """The others pull the rest; the attempt goes on and ends well."""
    stage = scene(share(), script={"a": list("abcde")})
    starter = Call("hi")
    first, second = stage.kit.stream(starter, stage.backend), stage.kit.stream(Call("hi"), stage.backend)
    for _ in range(read):
        next(first)
    assert next(second) == "a"
    first.close()
    assert "".join(second) == "bcde"
    assert stage.counts == {
        "request": 2,
        "attempt": 1,
        "attempt ok": 1,
        "request cancelled": 1,
        "request shared": 1,
    }
    assert (starter.outcome, starter.attempts[0].outcome) == ("cancelled", "ok")


def test_everybody_leaves(scene, share):
    """The last one to leave closes the upstream, as cancelled."""
    stage = scene(share(), script={"a": list("abcde")})
    streams = [stage.kit.stream(Call("hi"), stage.backend) for _ in range(3)]
    for stream in streams:
        next(stream)
    for stream in streams:
        stream.close()
    assert stage.backend.gone == 1
    assert stage.counts["attempt cancelled"] == 1


def test_a_failure_reaches_everybody(scene, share):
    """Each reader gets what was said before it, and then the failure."""
    stage = scene(share(), script={"a": ["x", Failure("server")]})
    streams = [stage.kit.stream(Call("hi"), stage.backend) for _ in range(3)]
    assert [next(stream) for stream in streams] == ["x"] * 3
    for stream in streams:
        with pytest.raises(Failure):
            next(stream)
    assert stage.counts["request error"] == 3


def test_the_thread_that_pulls_is_interrupted(scene, share, sync, in_threads, eventually):
    """Ctrl-C is for that thread alone: the others get ``UpstreamLost``, which may be tried again at once."""

    def interrupt():
        eventually(lambda: stage.aboard() == 2)
        raise KeyboardInterrupt

    stage = scene(share(), script={"a": ["x", interrupt]})
    results = in_threads(*[lambda: drive(stage.kit, Call("hi"), stage.backend, sync)] * 2)
    assert {type(result) for result in results} == {KeyboardInterrupt, UpstreamLost}
    assert {call.outcome for call in stage.first.calls} == {"cancelled", "error"}


def test_the_kit_is_closed_while_a_thread_pulls(scene, share, in_threads, eventually):
    """Who waits gets ``UpstreamLost`` at once, who pulls when its chunk is there, and the upstream is closed."""
    let_go = Event()

    def stall():
        assert let_go.wait(20.0)
        return "y"

    stage = scene(share(), script={"a": ["x", stall, "z"]})

    def follow():
        eventually(lambda: stage.backend.opened == 1)
        try:
            return "".join(stage.kit.stream(Call("hi"), stage.backend))
        finally:
            let_go.set()

    def close():
        eventually(lambda: stage.aboard() == 2)
        stage.kit.close()

    puller, follower, closed = in_threads(lambda: "".join(stage.kit.stream(Call("hi"), stage.backend)), follow, close)
    assert (str(puller), str(follower), closed) == ("the kit was closed", "the kit was closed", None)
    assert stage.counts["attempt cancelled"] == 1


def test_the_kit_is_closed_between_two_chunks(scene, share):
    """A stream that nobody is pulling right now is closed at once."""
    stage = scene(share())
    stream = stage.kit.stream(Call("hi"), stage.backend)
    next(stream)
    stage.kit.close()
    assert stage.backend.gone == 1
    with pytest.raises(UpstreamLost):
        next(stream)


def test_a_hook_that_closes_the_kit(scene, share, plugin, sync):
    """Even from within the upstream: the call is lost, nothing hangs, nothing is left open."""
    stage = scene(share(), plugin(pre_attempt=lambda call: stage.kit.close()))
    with pytest.raises(UpstreamLost):
        drive(stage.kit, Call("hi"), stage.backend, sync)
        stage.drive(sync)


def test_a_sync_follower_leaves_at_its_own_deadline(scene, share):
    """It reads what is there, and pulls no further chunk once its deadline has passed."""
    stage = scene(share(), script={"a": ["x", Pause(3.0), "y", "z"]})
    patient = stage.kit.stream(Call("hi"), stage.backend)
    impatient = stage.kit.stream(Call("hi", deadline=2.0), stage.backend)
    assert [next(patient), next(impatient), next(patient)] == ["x", "x", "y"]
    assert next(impatient) == "y"
    with pytest.raises(TimedOut):
        next(impatient)
    assert list(patient) == ["z"]


def test_a_sync_follower_waits_at_most_until_its_deadline(share, in_threads, eventually):
    """Also where another thread is pulling, and does not come back."""
    let_go = Event()

    def stall():
        assert let_go.wait(20.0)
        return "x"

    kit, backend = LLMKit([share()], [Target("a", "p", "m")]), ScriptedBackend({"a": [stall]})

    def follow():
        eventually(lambda: backend.opened == 1)
        try:
            return "".join(kit.stream(Call("hi", deadline=kit.clock() + 0.01), backend))
        finally:
            let_go.set()

    answer, late = in_threads(lambda: "".join(kit.stream(Call("hi"), backend)), follow)
    assert answer == "x"
    assert isinstance(late, TimedOut)


@pytest.mark.parametrize(
    ("deadlines", "given"), [((3.0, None), None), ((3.0, 9.0), 9.0), ((9.0, 3.0), 9.0), ((None, 3.0), None)]
)
def test_the_time_of_the_most_patient(scene, share, in_threads, eventually, deadlines, given):
    """An upstream that threads share is given what is left to the most patient who was aboard when it was sent."""

    def fail():
        eventually(lambda: stage.aboard() == 2)
        raise Failure("server")

    def follow():
        eventually(lambda: stage.backend.opened == 1)
        return drive(stage.kit, follower, stage.backend, "run")

    stage = scene(share(), script={"a": [fail], "b": ["y"]})
    starter, follower = (Call("hi", deadline=deadline) for deadline in deadlines)
    assert in_threads(lambda: drive(stage.kit, starter, stage.backend, "run"), follow) == ["y", "y"]
    assert [attempt.timeout_seconds for attempt in starter.attempts] == [deadlines[0], given]


def test_a_wait_past_everybodys_deadline(scene, share, plugin, sync):
    """A plugin that would wait longer than anybody aboard is refused, as if the call were alone."""

    def wait(call):
        yield Wait(5.0)

    stage = scene(share(), plugin(pre_attempt=wait), targets=[Target("a", "p", "m")])
    with pytest.raises(Refused, match="outlast"):
        stage.drive(sync, Call("hi", deadline=3.0))
    assert stage.clock() == 0.0


def test_the_identical_call_inside_its_own_flight(scene, share, plugin, sync, in_threads):
    """A hook of the upstream that makes it goes alone: it would wait for itself."""

    def again(call):
        if not call.metadata:
            inner.append(
                (yield Ask(lambda: drive(stage.kit, Call("hi", metadata={"inner": 1}), stage.backend, sync), None))
            )

    inner = []
    stage = scene(share(), plugin(pre_attempt=again))
    assert in_threads(lambda: stage.drive(sync)) == ["abc"]
    assert inner == ["abc"]
    assert stage.backend.sent == {"a": 2}


def test_two_flights_that_call_each_other(scene, share, plugin, in_threads):
    """A call within a call within the first one's flight knows all the flights it is in."""

    def deeper(call):
        depth = len(call.metadata)
        if depth < 3:
            prompt = "ho" if depth % 2 == 0 else "hi"
            inner = Call(prompt, metadata={**call.metadata, depth: True})
            yield Ask(lambda: stage.kit.call(inner, stage.backend), None)

    stage = scene(share(), plugin(pre_attempt=deeper))
    assert in_threads(lambda: stage.drive("run")) == ["abc"]
    assert stage.backend.sent == {"a": 4}


def test_threads_that_come_and_go(scene, share, in_threads):
    """Six threads and two prompts, each leaving when it likes: everybody read a beginning of the answer."""
    stage = scene(share(), script={"a": list(LETTERS)})

    def reader(seed):
        def read():
            dice = random.Random(seed)
            for _ in range(30):
                answer, leave_after = "", dice.choice([99, 99, 0, 1, 5, 19])
                stream = stage.kit.stream(Call(f"prompt {dice.randrange(2)}"), stage.backend)
                for chunk in stream:
                    if len(answer) == leave_after:
                        break
                    answer += chunk
                else:
                    assert answer == LETTERS
                assert LETTERS.startswith(answer)
                if dice.random() < 0.5:
                    stream.close()
            return "fine"

        return read

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        assert in_threads(*[reader(seed) for seed in range(6)]) == ["fine"] * 6
    finally:
        sys.setswitchinterval(usual)
    assert stage.counts["request"] == 180


def test_a_call_that_nobody_shares_costs_no_thread(scene, share, sync):
    """Sharing in threads starts none."""
    started = []
    stage = scene(share())
    usual = Thread.start
    Thread.start = lambda self: (started.append(self), usual(self))
    try:
        stage.drive(sync)
    finally:
        Thread.start = usual
    assert not started
