"""Law 3: cancelled is not failed, and whoever goes away leaves nothing behind, wherever the call was."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

import pytest

from llmkit_plugins import Ask, Call, Refused, Wait
from llmkit_plugins.testing import CancelAt, Failure, Pause

pytestmark = pytest.mark.usefixtures("collector")

SCRIPTS = {
    "answered": {},
    "failed over": {"a": ["", Failure("server")]},
    "failed": {"a": ["x", Failure("server")], "b": ["x", Failure("server")]},
}


@pytest.fixture(params=["arun", "astream"])
def awaited(request):
    return request.param


@pytest.fixture
def waiting(plugin):
    """A plugin that waits and asks in both pre hooks."""

    def steps(call):
        yield Wait(1.0)
        yield Ask(lambda: None, lambda: asyncio.sleep(1.0))

    return plugin("waiting", pre_request=steps, pre_attempt=steps)


@pytest.mark.parametrize("story", SCRIPTS)
def test_cancelled_at_every_await(scene, sharing, waiting, awaited, story):
    """Wherever a caller is cancelled: everybody hears the end, the upstream is closed, and no task is left."""
    at = 0
    while True:
        at += 1
        stage = scene(*sharing, waiting, script=SCRIPTS[story])
        reached, outcome = stage.arun(lambda stage=stage, at=at: cancelled(stage, awaited, at))
        assert stage.settled()
        if reached < at:
            break
        assert outcome == "cancelled"
        assert stage.counts["request"] == stage.counts["request cancelled"] == 1
    assert at >= 4


async def cancelled(stage, mode, at):
    call = Call("hi")
    caller = CancelAt(stage.adrive(mode, call), at)

    async def make():
        return await caller

    task = asyncio.create_task(make())
    await asyncio.wait([task])
    assert task.cancelled() == (call.outcome == "cancelled")
    if not task.cancelled():
        task.exception()
    return caller.suspensions, call.outcome


def test_a_cancelled_attempt_says_nothing_about_the_provider(scene, awaited):
    """It has no kind of error, and while it is told it carries what stopped it."""
    stage = scene(script={"a": [Pause(10.0)]})
    call = Call("hi")

    async def scenario():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stage.adrive(awaited, call), 1.0)

    stage.arun(scenario)
    (attempt,) = call.attempts
    assert (attempt.outcome, attempt.kind, attempt.error) == ("cancelled", None, None)
    assert attempt.duration == 1.0
    assert stage.backend.gone == 1


class Interrupting:
    """Raises at the *at*-th point where the outside world is reached: a wait, I/O, a chunk, the consumer."""

    def __init__(self, gone, at):
        self.gone, self.at, self.reached = gone, at, 0

    def __call__(self):
        self.reached += 1
        if self.reached == self.at:
            raise self.gone


@pytest.mark.parametrize("gone", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, SystemExit])
@pytest.mark.parametrize("story", SCRIPTS)
@pytest.mark.parametrize("mode", ["run", "stream"])
def test_interrupted_at_every_step(scene, sharing, plugin, mode, story, gone):
    """Ctrl-C wherever a sync call reaches the outside world: everybody hears the end, exactly once."""
    at = 0
    while True:
        at += 1
        point = Interrupting(gone(), at)

        def steps(call, point=point):
            yield Wait(1.0)
            yield Ask(point, None)

        stage = scene(*sharing, plugin(pre_request=steps, pre_attempt=steps))
        stage.backend.script = {
            name: [through(point, line) for line in lines] for name, lines in SCRIPTS[story].items()
        }
        stage.backend.default = [through(point, line) for line in stage.backend.default]
        sleep, call = stage.clock.sleep, Call("hi")
        stage.clock.sleep = lambda seconds, sleep=sleep, point=point: (point(), sleep(seconds))
        stage.kit.reorder(list(stage.kit.plugins))  # takes the new sleep
        try:
            consume(stage, mode, call, point)
        except gone:
            assert call.outcome == ("ok" if call.attempts and call.attempts[-1].finish_reason else "cancelled")
        except Failure:
            assert story == "failed"
        assert stage.settled()
        assert stage.counts["request"] == 1
        if point.reached < at:
            break
    assert at > 5


def through(point, line):
    def reach():
        point()
        return line

    return reach


def consume(stage, mode, call, point):
    if mode == "run":
        stage.kit.call(call, stage.backend)
        return
    chunks = stage.kit.stream(call, stage.backend)
    for _ in chunks:
        try:
            point()
        except BaseException as gone:
            chunks.throw(gone)


@pytest.mark.parametrize("ticks", range(16))
@pytest.mark.parametrize("callers", [1, 3])
def test_everybody_leaves_after_some_turns_of_the_loop(scene, sharing, waiting, awaited, ticks, callers):
    """All callers are cancelled at once, however far they were: no upstream, no task, no seat is left."""
    stage = scene(*sharing, waiting, script=SCRIPTS["failed over"])

    async def scenario():
        tasks = [asyncio.create_task(stage.adrive(awaited)) for _ in range(callers)]
        for _ in range(ticks):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    stage.arun(scenario)
    assert stage.backend.opened <= 2 * (1 if sharing else callers)


def swallow_cancellation(call):
    while True:
        with suppress(asyncio.CancelledError):
            yield Wait(1.0)


def swallow_everything(call):
    while True:
        try:
            yield Wait(1.0)
        except BaseException:
            continue


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("swallow", [swallow_cancellation, swallow_everything])
@pytest.mark.parametrize("hook", ["pre_request", "pre_attempt"])
def test_a_hook_that_swallows_the_cancellation(scene, plugin, sharing, awaited, hook, swallow):
    """Cancel wins: such a hook is closed, or left behind where it resists that too, and nothing is sent."""

    def later(call):
        yield Wait(1.0)

    stage = scene(*sharing, plugin("stubborn", **{hook: swallow}), plugin("later", **{hook: later}))

    async def scenario():
        task = asyncio.create_task(stage.adrive(awaited))
        await asyncio.sleep(2.5)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    stage.arun(scenario)
    assert not stage.backend.sent
    assert stage.counts["request"] == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mode", ["run", "stream"])
def test_a_hook_that_swallows_ctrl_c(scene, plugin, sharing, mode):
    """In a thread the same holds for an interrupt."""

    def swallow(call):
        while True:
            try:
                yield Ask(interrupt, None)
            except BaseException:
                continue

    def interrupt():
        raise KeyboardInterrupt

    stage = scene(*sharing, plugin(pre_request=swallow))
    with pytest.raises(KeyboardInterrupt):
        stage.drive(mode)
    assert not stage.backend.sent


def test_timeouts_and_task_groups_of_the_caller(scene, sharing, awaited):
    """``asyncio.timeout``, ``wait_for`` and a failing sibling in a task group stop a call as cancellation does."""
    stage = scene(*sharing, script={"a": [Pause(1.0), "x", Pause(1.0), "y"]})

    async def fail():
        await asyncio.sleep(1.5)
        raise KeyError

    async def scenario():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stage.adrive(awaited), 1.5)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await stage.adrive(awaited)
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                group.create_task(stage.adrive(awaited))

    stage.arun(scenario)
    assert Counter(stage.counts)["request cancelled"] == 3
    assert stage.backend.gone == 3


@pytest.mark.parametrize("broken", [False, True], ids=["left", "broken off"])
def test_cancelled_while_the_providers_stream_is_closed(scene, broken):
    """The end is told at once, even where somebody keeps the task and its error."""
    stage = scene(script={"a": ["x", Failure("server")] if broken else ["x", Pause(60.0)]})

    class Lingering:
        """A stream that takes its time to close."""

        def __init__(self, source):
            self.source = source

        def __aiter__(self):
            return self

        async def __anext__(self):
            return await anext(self.source)

        async def aclose(self):
            await self.source.aclose()
            await asyncio.sleep(5.0)

    opened = stage.backend.astream
    stage.backend.astream = lambda call, attempt: Lingering(opened(call, attempt))

    async def read():
        stream = stage.kit.astream(Call("hi"), stage.backend)
        async for _ in stream:
            if not broken:
                break
        await stream.aclose()

    async def scenario():
        task = asyncio.create_task(read())
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as kept:
            await task
        assert stage.counts["request cancelled"] == stage.counts["attempt cancelled"] == 1
        return kept

    stage.arun(scenario)


@pytest.mark.parametrize("broken", [False, True], ids=["left", "broken off"])
def test_interrupted_while_the_providers_stream_is_closed(scene, broken):
    """The same for Ctrl-C in a thread."""
    stage = scene(script={"a": ["x", Failure("server")] if broken else ["x", "y"]})

    class Interrupted:
        """A stream that is interrupted while it closes."""

        def __init__(self, source):
            self.source = source

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.source)

        def close(self):
            self.source.close()
            raise KeyboardInterrupt

    opened = stage.backend.stream
    stage.backend.stream = lambda call, attempt: Interrupted(opened(call, attempt))
    stream = stage.kit.stream(Call("hi"), stage.backend)
    next(stream)
    with pytest.raises(KeyboardInterrupt) as kept:
        next(stream) if broken else stream.close()
    assert stage.counts["request cancelled"] == stage.counts["attempt cancelled"] == 1
    assert kept


def test_a_cancelled_call_raises_no_refusal(scene, plugin, awaited):
    """Between a refusal that is under way and the cancellation, the cancellation is what the caller sees."""

    def refuse_late(call):
        try:
            yield Wait(5.0)
        except asyncio.CancelledError:
            raise Refused("too late") from None

    stage = scene(plugin(pre_request=refuse_late))

    async def scenario():
        task = asyncio.create_task(stage.adrive(awaited))
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.wait([task])
        return task

    task = stage.arun(scenario)
    assert task.cancelled()
