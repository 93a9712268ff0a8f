"""What the garbage collector has to do with it: calls leave it no work, and what it ends is told in time."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import deque
from contextlib import suppress

import pytest

from llmkit_plugins import (
    Answer,
    Call,
    ForeignCancel,
    LLMKit,
    NoTarget,
    RateLimited,
    Refused,
    Response,
    Target,
    TimedOut,
    UpstreamLost,
)
from llmkit_plugins.engine import plan, telling
from llmkit_plugins.testing import Failure, ManualClock, Pause, ScriptedBackend, adrive, drive


class Prompt:
    """Something that can be seen to be gone."""


@pytest.fixture
def collector_off():
    gc.disable()
    yield
    gc.enable()


def refuse(attempt):
    raise RateLimited("requests", retry_after=1.0)


def refuse_a(attempt):
    if attempt.target.name == "a":
        refuse(attempt)


STORIES = {
    "answered": ({}, {}, {}),
    "failed": ({"a": [lambda: fail()], "b": [lambda: fail()]}, {}, {}),
    "failed over": ({"a": [lambda: fail()]}, {}, {}),
    "failed late": ({"a": ["x", lambda: fail()], "b": ["x", lambda: fail()]}, {}, {}),
    "one refused": ({}, {"pre_attempt": refuse_a}, {}),
    "all refused": ({}, {"pre_attempt": refuse}, {}),
    "refused": ({}, {"pre_request": lambda call: refuse(call)}, {}),
    "answered by a plugin": ({}, {"pre_request": lambda call: Answer(Response("x"), "x")}, {}),
    "interrupted": ({"a": ["x", lambda: interrupt()]}, {}, {}),
    "timed out": ({"a": [Pause(9.0)], "b": ["x", Pause(9.0)]}, {}, {"timeout_seconds": 1.0}),
    "a bug": ({}, {"route": lambda call: fail(), "post_attempt": lambda call: fail()}, {}),
}


def fail():
    raise Failure("server")


def interrupt():
    raise asyncio.CancelledError


@pytest.mark.parametrize("story", STORIES)
def test_calls_leave_no_cycles(sharing, plugin, mode, story, collector_off, monkeypatch):
    """When nobody holds a call any more it is gone at once, error, prompt and all, however it ended."""
    script, hooks, fields = STORIES[story]
    monkeypatch.setattr(plan.log, "disabled", True)  # what captures the log keeps the errors
    clock = ManualClock()
    plugins = [*sharing, *([plugin(**hooks)] if hooks else [])]
    kit = LLMKit(plugins, [Target("a", "p", "m"), Target("b", "p", "m")], clock=clock)
    backend = ScriptedBackend(script, sleep=clock.sleep)
    prompt = Prompt()
    gone = weakref.ref(prompt)

    async def adrive_quietly(call):  # an error that left the event loop would be in a cycle with its task
        with suppress(Failure, Refused, TimedOut, UpstreamLost, ForeignCancel):
            await adrive(kit, call, backend, mode)

    if mode in ("arun", "astream"):
        clock.run(adrive_quietly(Call(prompt, **fields)))
    else:
        with suppress(Failure, Refused, TimedOut, UpstreamLost, asyncio.CancelledError):
            drive(kit, Call(prompt, **fields), backend, mode)
    del prompt
    assert gone() is None


@pytest.mark.parametrize("ends", ["finish", "fail", "cancel"])
def test_handles_leave_no_cycles(ends, collector_off):
    """Nor does a call that a framework sends by itself; its error is left as the framework raised it."""
    kit, prompt = LLMKit([], []), Prompt()
    gone = weakref.ref(prompt)
    error = Failure("server")
    handle = kit.begin(Call(prompt), Target("a", "p", "m"))
    handle.fail(error) if ends == "fail" else getattr(handle, ends)()
    assert error.__traceback__ is None
    del prompt, handle
    assert gone() is None


def test_a_cancelled_task_leaves_no_cycle(sharing, mode, collector_off):
    """Nor does a caller that is cancelled while it waits."""
    if mode not in ("arun", "astream"):
        return
    clock = ManualClock()
    kit, backend = LLMKit(sharing, [Target("a", "p", "m")], clock=clock), ScriptedBackend({"a": [Pause(9.0)]})
    prompt = Prompt()
    gone = weakref.ref(prompt)

    async def scenario(call):
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                if mode == "arun":
                    await kit.acall(call, backend)
                else:
                    async for _ in kit.astream(call, backend):
                        pass
        del call
        await asyncio.sleep(1.0)  # the upstream ends; at the end of the loop it would be in a cycle with that

    clock.run(scenario(Call(prompt)))
    del prompt
    assert gone() is None


class Locking:
    """Holds a plain lock in its post hooks, as metrics libraries do, and allocates while it does."""

    def __init__(self):
        self.lock, self.told = threading.Lock(), 0

    def note(self, _):
        assert self.lock.acquire(timeout=5.0), "the collector came back into a hook that held its lock"
        try:
            self.told += 1
            [[] for _ in range(500)]
        finally:
            self.lock.release()


def test_the_collector_comes_while_a_hook_holds_a_lock(plugin):
    """Ends that it brings about are told later: told at once, they would wait for a lock of this very thread."""
    locking = Locking()
    kit = LLMKit([plugin(post_attempt=lambda call: locking.note(call))], [Target("a", "p", "m")])
    backend = ScriptedBackend()
    usual = gc.get_threshold()
    gc.set_threshold(50)
    try:
        for _ in range(50):
            stream = kit.stream(Call("hi"), backend)
            next(stream)
            cycle = [stream]
            cycle.append(cycle)
            del stream, cycle
            kit.call(Call("hi"), backend)
    finally:
        gc.set_threshold(*usual)
    gc.collect()
    kit.close()
    assert locking.told == 100
    assert not kit.bugs


def abandon(kit, backend):
    stream = kit.stream(Call("hi"), backend)
    next(stream)
    cycle = [stream]
    cycle.append(cycle)


@pytest.mark.parametrize("how", ["the next call", "close"])
def test_when_late_ends_are_told(plugin, how, collector_off):
    """What the collector ended is told when the next call begins or the kit is closed, and not before."""
    told = []
    kit = LLMKit([plugin(error=lambda call: told.append(call.outcome))], [Target("a", "p", "m")])
    backend = ScriptedBackend()
    abandon(kit, backend)
    gc.collect()
    assert not told
    kit.call(Call("hi"), backend) if how == "the next call" else kit.close()
    assert told == ["cancelled"]


def test_two_threads_tell_late_ends(monkeypatch, plugin, collector_off):
    """Where another thread takes the last of them just before, there is nothing left to do, and no error."""

    class Raced(deque):
        def popleft(self):
            late = super().popleft()
            if len(self) == 0 and not raced:
                raced.append(late)  # the other thread was here first
                return super().popleft()
            return late

    raced, told = [], []
    monkeypatch.setattr(telling, "_late_ends", Raced())
    kit = LLMKit([plugin(error=lambda call: told.append(call))], [Target("a", "p", "m")])
    backend = ScriptedBackend()
    abandon(kit, backend)
    gc.collect()
    telling.settle()
    assert len(raced) == 1
    assert not told


def test_many_threads_tell_late_ends(plugin, in_threads):
    """However many threads settle at once, each end is told once."""
    told = []
    kit = LLMKit([plugin(error=lambda call: told.append(call.id))], [Target("a", "p", "m")])
    backend = ScriptedBackend()
    for _ in range(100):
        abandon(kit, backend)
    gc.collect()
    assert in_threads(*[telling.settle] * 4) == [None] * 4
    assert len(told) == len(set(told)) == 100


def test_the_collector_of_another_thread(plugin, in_threads):
    """While one thread collects, another tells its ends at once: only the one that collects may hold a hook's lock."""
    told = []

    class Slow:
        """Its finalizer runs while the collector does, and lets another thread make a call meanwhile."""

        def __del__(self):
            collecting.set()
            assert called.wait(20.0)

    def collect():
        slow = Slow()
        slow.itself = slow
        del slow
        gc.collect()

    def call():
        assert collecting.wait(20.0)
        try:
            kit.call(Call("hi"), ScriptedBackend())
            return list(told)
        finally:
            called.set()

    collecting, called = threading.Event(), threading.Event()
    kit = LLMKit([plugin(post_response=lambda call: told.append(call.outcome))], [Target("a", "p", "m")])
    assert in_threads(collect, call)[1] == ["ok"]


def test_an_error_is_with_the_attempt_only_while_it_is_told(scene, plugin, sharing, mode):
    """Its kind stays; the error itself, which holds frames, does not, even where a hook was interrupted."""

    def hear(attempt):
        heard.append(attempt.error)
        raise KeyboardInterrupt

    heard = []
    stage = scene(*sharing, plugin(post_attempt=hear), script={"a": [Failure("server")]})
    with suppress(KeyboardInterrupt, UpstreamLost):
        stage.drive(mode)
    assert [type(error) for error in heard] == [Failure]
    (attempt,) = stage.first.attempts
    assert (attempt.error, attempt.kind) == (None, "server")


def test_no_target_holds_its_reasons(scene, plugin, mode):
    """The reasons are for the caller: they outlive the call."""
    with pytest.raises(NoTarget) as caught:
        scene(plugin(pre_attempt=refuse)).drive(mode)
    assert {type(reason) for reason in caught.value.reasons.values()} == {RateLimited}
