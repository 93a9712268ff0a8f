"""Law 7 and the flights under asyncio: one upstream, many callers, each with a story of its own."""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import aclosing, suppress
from threading import Thread

import pytest

from llmkit_plugins import Ask, Call, Refused, Target, TimedOut, UpstreamLost
from llmkit_plugins.testing import Failure, Last, Pause, ScriptedBackend

pytestmark = pytest.mark.usefixtures("collector")

SLOWLY = [Pause(1.0), "a", Pause(1.0), "b", Pause(1.0), Last("c")]


@pytest.fixture(params=["arun", "astream"])
def awaited(request):
    return request.param


async def gather(stage, mode, calls):
    return await asyncio.gather(*[stage.adrive(mode, call) for call in calls], return_exceptions=True)


def others():
    """The tasks of the loop that are not this one."""
    return asyncio.all_tasks() - {asyncio.current_task()}


def test_many_callers_one_upstream(scene, share, awaited):
    """Each caller gets the whole answer and has a request of its own; there is one attempt, the starter's."""
    stage = scene(share(), targets=[Target("a", "p", "m", input_price=1.0, output_price=1.0)])
    calls = [Call("hi") for _ in range(20)]
    assert stage.arun(lambda: gather(stage, awaited, calls)) == ["abc"] * 20
    assert stage.counts == {"request": 20, "attempt": 1, "attempt ok": 1, "request ok": 1, "request shared": 19}
    assert stage.backend.sent == {"a": 1}
    starter, *followers = calls
    assert starter.response.shared is None
    assert {call.response.shared for call in followers} == {starter.id}


def test_a_follower_costs_nothing(scene, share, awaited):
    """It sees the usage of the answer, pays nothing, and has no attempts."""
    stage = scene(share(), targets=[Target("a", "p", "m", input_price=1e6, output_price=1e6)])
    starter, follower = Call("hi"), Call("hi")
    stage.arun(lambda: gather(stage, awaited, [starter, follower]))
    assert (starter.response.cost, follower.response.cost) == (8.0, 0.0)
    assert follower.response.usage == starter.response.usage
    assert (len(starter.attempts), len(follower.attempts)) == (1, 0)
    assert follower.response.finish_reason == "stop"


def test_what_is_not_shared(scene, share):
    """Other keys, and streamed or not, are upstreams of their own."""
    stage = scene(share())

    async def scenario():
        await asyncio.gather(
            stage.adrive("arun", Call("hi")),
            stage.adrive("arun", Call("hi", tenant="t")),
            stage.adrive("arun", Call("ho")),
            stage.adrive("astream", Call("hi")),
            stage.adrive("arun", Call("hi", metadata={"alone": True})),
        )

    stage.arun(scenario)
    assert stage.backend.sent == {"a": 5}


@pytest.mark.parametrize("leaving", ["the starter", "a follower", "all", "all but the last"])
@pytest.mark.parametrize("turns", range(10))
def test_callers_that_leave(scene, share, awaited, leaving, turns):
    """Whoever leaves, whenever: the others get the whole answer, and when nobody is left the upstream is stopped."""
    stage = scene(share())
    calls = [Call("hi") for _ in range(4)]

    async def scenario():
        tasks = [asyncio.create_task(stage.adrive(awaited, call)) for call in calls]
        for _ in range(turns):
            await asyncio.sleep(0)
        left = {"the starter": tasks[:1], "a follower": tasks[2:3], "all": tasks, "all but the last": tasks[:-1]}[
            leaving
        ]
        for task in left:
            task.cancel()
        await asyncio.wait(tasks)
        assert [task.result() for task in tasks if task not in left] == ["abc"] * (4 - len(left))

    stage.arun(scenario)
    assert stage.backend.opened <= 1
    assert stage.counts.get("request", 0) <= 4


def test_the_attempt_of_a_starter_that_left(scene, share, awaited):
    """It goes on and ends well, on the call of the one who started it, whose own request was cancelled."""
    stage = scene(share(), script={"a": SLOWLY})
    starter, follower = Call("hi", user="ann"), Call("hi", user="bob")

    async def scenario():
        leaver = asyncio.create_task(stage.adrive(awaited, starter))
        stayer = asyncio.create_task(stage.adrive(awaited, follower))
        await asyncio.sleep(0.5)
        leaver.cancel()
        assert await stayer == "abc"

    stage.arun(scenario)
    assert (starter.outcome, starter.attempts[0].outcome, follower.outcome) == ("cancelled", "ok", "ok")
    assert starter.attempts[0].usage.total_tokens == 8
    assert follower.response.attempt is starter.attempts[0]
    assert follower.response.shared == starter.id


def test_the_last_one_to_leave_stops_the_upstream(scene, share, awaited):
    """The provider's stream is closed as cancelled, which says nothing about the provider."""
    stage = scene(share(), script={"a": [Pause(60.0)]})
    call = Call("hi")

    async def scenario():
        task = asyncio.create_task(stage.adrive(awaited, call))
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.wait([task])

    stage.arun(scenario)
    assert stage.clock() == 1.0
    assert (call.attempts[0].outcome, call.attempts[0].kind) == ("cancelled", None)
    assert stage.backend.gone == 1


def test_a_client_that_loses_a_cancellation(scene, share):
    """What stops an upstream may be lost below it, as in Python 3.11's ``wait_for`` where a chunk comes at the same
    moment: that chunk is the last one read."""

    class Deaf(ScriptedBackend):
        async def astream(self, call, attempt):
            async with aclosing(super().astream(call, attempt)) as chunks:
                while True:
                    waiting = asyncio.ensure_future(anext(chunks, None))
                    with suppress(asyncio.CancelledError):
                        await asyncio.shield(waiting)
                    if (chunk := await waiting) is None:
                        return
                    yield chunk

    stage = scene(share())
    stage.backend = Deaf({"a": SLOWLY})
    call = Call("hi")

    async def scenario():
        task = asyncio.create_task(stage.adrive("astream", call))
        await asyncio.sleep(1.5)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(10)

    stage.arun(scenario)
    assert (call.outcome, call.attempts[0].outcome, call.attempts[0].finished) == ("cancelled", "cancelled", 2.0)


def test_late_ones_replay_and_slow_ones_miss_nothing(scene, share):
    """Whenever they join and however slowly they read, all get every chunk of the one upstream."""
    stage = scene(share(), script={"a": [line for chunk in "abcdefghij" for line in (Pause(1.0), chunk)]})

    async def read(after, pause):
        await asyncio.sleep(after)
        answer = ""
        async for chunk in stage.kit.astream(Call("hi"), stage.backend):
            answer += chunk
            await asyncio.sleep(pause)
        return answer

    async def scenario():
        return await asyncio.gather(read(0, 0), read(3.5, 0), read(5.5, 4.0), read(9.5, 0))

    assert stage.arun(scenario) == ["abcdefghij"] * 4
    assert stage.backend.sent == {"a": 1}
    assert stage.counts["request shared"] == 3


def test_after_the_end_nobody_joins(scene, share, awaited):
    """An answer is shared while it is under way; the next call starts anew."""
    stage = scene(share())
    assert [stage.drive(awaited), stage.drive(awaited)] == ["abc", "abc"]
    assert stage.backend.sent == {"a": 2}


def test_a_failure_reaches_everybody(scene, share, awaited):
    """Failover happens once for all; what is left of it is raised to each."""
    stage = scene(share(), script={"a": [Failure("server")], "b": ["x", Failure("overloaded")]})
    results = stage.arun(lambda: gather(stage, awaited, [Call("hi") for _ in range(5)]))
    assert [failure.kind for failure in results] == ["overloaded"] * 5
    assert stage.backend.sent == {"a": 1, "b": 1}
    assert stage.counts["attempt error"] == 2
    assert stage.counts["request error"] == 5


def test_failover_of_a_shared_call(scene, share, awaited):
    """Before the first chunk nobody notices."""
    stage = scene(share(), script={"a": ["", Failure("server")]})
    assert stage.arun(lambda: gather(stage, awaited, [Call("hi") for _ in range(5)])) == ["abc"] * 5


@pytest.mark.parametrize("turns", [1, 2, 3, 6])
def test_an_upstream_cancelled_by_a_stranger(scene, share, awaited, turns):
    """Its callers get ``UpstreamLost``, not a cancellation that nobody asked them for; even before its first step."""
    stage = scene(share(), script={"a": SLOWLY})

    async def scenario():
        tasks = [asyncio.create_task(stage.adrive(awaited)) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for upstream in others() - set(tasks):
            upstream.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = stage.arun(scenario)
    lost = [result for result in results if isinstance(result, UpstreamLost)]
    assert len(lost) == 3 or (turns == 1 and results == ["abc"] * 3)


def test_a_guard_listed_after_the_one_who_shares(scene, share, plugin, awaited):
    """It guards followers too: every pre hook runs for every caller before one is joined."""

    def guard(call):
        if call.user == "eve":
            raise Refused("not you")

    stage = scene(share(), plugin(pre_request=guard), script={"a": SLOWLY})
    calls = [Call("hi", user=user) for user in ("ann", "eve", "bob")]
    ann, eve, bob = stage.arun(lambda: gather(stage, awaited, calls))
    assert (ann, bob) == ("abc", "abc")
    assert isinstance(eve, Refused)
    assert stage.backend.sent == {"a": 1}


def test_a_follower_leaves_at_its_own_deadline(scene, share, awaited):
    """It is timed out alone: the upstream and whoever shares it go on, past the deadline of the one who started it."""
    stage = scene(share(), script={"a": ["x", Pause(10.0), "y"]})
    calls = [Call("hi", deadline=2.0), Call("hi", deadline=5.0), Call("hi")]
    starter, impatient, patient = stage.arun(lambda: gather(stage, awaited, calls))
    assert isinstance(starter, TimedOut)
    assert isinstance(impatient, TimedOut)
    assert patient == "xy"
    assert [call.outcome for call in calls] == ["error", "error", "ok"]
    assert calls[0].attempts[0].outcome == "ok"
    assert stage.clock() == 10.0


@pytest.mark.parametrize(
    ("bounds", "after", "upstreams"),
    [
        ({"max_age_seconds": 1.0}, 1.0, 1),
        ({"max_age_seconds": 1.0}, 1.5, 2),
        ({"max_chunks": 1}, 1.5, 1),
        ({"max_chunks": 1}, 2.5, 2),
    ],
)
def test_a_flight_that_is_too_old_or_too_long_to_join(scene, share, bounds, after, upstreams):
    """Beyond its bounds the next caller starts another flight, which later ones join; both end well."""
    stage = scene(share(**bounds), script={"a": SLOWLY})

    async def late():
        await asyncio.sleep(after)
        return await asyncio.gather(stage.adrive("astream"), stage.adrive("astream"))

    async def scenario():
        return await asyncio.gather(stage.adrive("astream"), late())

    assert stage.arun(scenario) == ["abc", ["abc", "abc"]]
    assert stage.backend.sent == {"a": upstreams}


def test_too_many_flights(scene, share, awaited):
    """Beyond the bound a call that would start one more goes alone; one that joins is welcome."""
    stage = scene(share(max_flights=2), script={"a": SLOWLY})
    calls = [Call(prompt) for prompt in ("x", "y", "z", "x", "y", "z")]
    assert stage.arun(lambda: gather(stage, awaited, calls)) == ["abc"] * 6
    assert stage.backend.sent == {"a": 4}
    assert [call.response.shared is not None for call in calls] == [False, False, False, True, True, False]


def test_each_caller_gets_chunks_of_its_own(scene, share, awaited):
    """What the backend's ``copy`` makes: a framework may change a chunk it was given."""
    stage = scene(share())
    stage.backend.copy = lambda chunk: chunk.upper()
    assert stage.arun(lambda: gather(stage, awaited, [Call("hi"), Call("hi")])) == ["ABC", "ABC"]


@pytest.mark.parametrize("kept", [False, True], ids=["dropped", "kept"])
def test_who_is_alone_gets_the_answer_itself(scene, share, kept):
    """A whole answer that nobody else had, has or will have need not be copied: one that is kept for later is."""
    stage = scene(share(landed=[].append if kept else None))
    stage.backend.copy = lambda chunk: chunk.upper()
    answer = "ABC" if kept else "abc"
    assert stage.drive("run", Call("hi")) == answer
    assert stage.arun(lambda: stage.adrive("arun", Call("hi"))) == answer


@pytest.mark.parametrize("mode", ["stream", "astream"])
def test_chunks_are_counted(scene, sharing, mode):
    """An attempt counts what it handed over from the first chunk that says something on, whoever reads it."""
    stage = scene(*sharing, script={"a": ["", "x", "y", Last("z")]})
    call = Call("hi")
    assert stage.drive(mode, call) == "xyz"
    assert call.attempts[0].chunks == 3


def test_the_identical_call_inside_its_own_flight(scene, share, plugin, awaited):
    """A hook of the upstream that makes it goes alone, also from a task of its own: it would wait for itself."""

    async def in_a_task():
        return await asyncio.create_task(stage.adrive(awaited, Call("hi", metadata={"inner": True})))

    def again(call):
        if not call.metadata:
            inner.append((yield Ask(None, in_a_task)))

    inner = []
    stage = scene(share(), plugin(pre_attempt=again))
    assert stage.arun(lambda: gather(stage, awaited, [Call("hi"), Call("hi")])) == ["abc", "abc"]
    assert inner == ["abc"]
    assert stage.backend.sent == {"a": 2}


def test_two_flights_that_call_each_other(scene, share, plugin, awaited):
    """A call within a call within the first one's flight knows all the flights it is in."""

    def deeper(call):
        depth = len(call.metadata)
        if depth < 3:
            inner = Call("hi" if depth % 2 else "ho", metadata={**call.metadata, depth: True})
            yield Ask(None, lambda: stage.adrive(awaited, inner))

    stage = scene(share(), plugin(pre_attempt=deeper))

    async def scenario():
        async with asyncio.timeout(60.0):
            return await stage.adrive(awaited)

    assert stage.arun(scenario) == "abc"
    assert stage.backend.sent == {"a": 4}


def test_the_kit_is_closed_with_flights_under_way(scene, share, awaited):
    """Their callers get ``UpstreamLost``, and closing waits until the upstreams of this loop have ended."""
    stage = scene(share(), script={"a": SLOWLY})

    async def scenario():
        tasks = [asyncio.create_task(stage.adrive(awaited)) for _ in range(3)]
        await asyncio.sleep(1.5)
        await stage.kit.aclose()
        assert not others() - set(tasks)
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = stage.arun(scenario)
    assert [str(lost) for lost in results] == ["the kit was closed"] * 3
    assert stage.counts["attempt cancelled"] == 1
    assert stage.counts["request error"] == 3


def test_the_kit_is_closed_from_another_thread(scene, share, awaited):
    """A sync ``close`` reaches the upstreams of a running loop as well."""
    stage = scene(share(), script={"a": [lambda: closing.start(), Pause(0.0), *["x"] * 100_000]})
    closing = Thread(target=stage.kit.close)
    results = stage.arun(lambda: gather(stage, awaited, [Call("hi"), Call("hi")]))
    closing.join()
    assert [type(result) for result in results] == [UpstreamLost, UpstreamLost]


def test_two_loops_in_two_threads(scene, share, in_threads):
    """Each event loop has flights of its own; neither disturbs the other."""
    stage = scene(share())

    def loop():
        async def scenario():
            return await asyncio.gather(*[stage.adrive("astream") for _ in range(30)])

        return [asyncio.run(scenario()) for _ in range(3)]

    assert in_threads(loop, loop) == [[["abc"] * 30] * 3] * 2
    assert stage.backend.sent == {"a": 6}


def test_a_crowd_that_comes_and_goes(scene, share):
    """Thirty readers of two prompts, each leaving when it likes: everybody read a beginning of the answer."""
    stage = scene(share(), script={"a": list("abcdefghijklmnopqrst")})
    dice = random.Random(7)

    async def reader():
        for _ in range(25):
            answer, leave_after = "", dice.choice([99, 99, 0, 1, 5, 19])
            stream = stage.kit.astream(Call(f"prompt {dice.randrange(2)}"), stage.backend)
            async for chunk in stream:
                if len(answer) == leave_after:
                    break
                answer += chunk
                if dice.random() < 0.1:
                    await asyncio.sleep(0)
            else:
                assert answer == "abcdefghijklmnopqrst"
            assert "abcdefghijklmnopqrst".startswith(answer)
            if dice.random() < 0.5:
                await stream.aclose()

    async def scenario():
        await asyncio.gather(*[reader() for _ in range(30)])

    stage.arun(scenario)
    assert stage.counts["request"] == 750


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@pytest.mark.parametrize("leaving", [False, True])
def test_eager_tasks(scene, share, awaited, leaving):
    """Where tasks begin to run when they are made, the upstream begins outside the lock, and all is as usual."""
    stage = scene(share())

    async def scenario():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        tasks = [asyncio.create_task(stage.adrive(awaited)) for _ in range(3)]
        if leaving:
            tasks[0].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, *rest = stage.arun(scenario)
    assert rest == ["abc", "abc"]
    assert isinstance(first, asyncio.CancelledError) if leaving else first == "abc"
