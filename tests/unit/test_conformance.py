"""The test class for authors of plugins: good plugins pass it, and each kind of bad one fails it."""

from __future__ import annotations

import inspect
import socket
import time

import pytest

from llmkit_plugins import Answer, Ask, LLMKit, RateLimited, Response, Share, Wait, hookimpl
from llmkit_plugins.testing import PluginConformance, Recorder


class Careful:
    """Uses everything a plugin may use, and leaves nothing behind."""

    def __init__(self):
        self.open = 0

    def _steps(self):
        yield Wait(0.5)
        yield Ask(lambda: None, self._nothing)

    async def _nothing(self):
        return None

    @hookimpl
    def llmkit_pre_request(self, call):
        call.state[self] = True
        self.open += 1
        return self._steps()

    @hookimpl
    def llmkit_pre_attempt(self, call, attempt):
        attempt.state[self] = True
        yield from self._steps()

    @hookimpl
    def llmkit_post_attempt(self, call, attempt):
        attempt.state.pop(self, None)

    @hookimpl
    def llmkit_post_response(self, call, response):
        call.state.pop(self, None)

    @hookimpl
    def llmkit_error(self, call, error):
        call.state.pop(self, None)

    def close(self):
        self.open = 0


class TestCareful(PluginConformance):
    """A plugin that waits, asks and keeps state."""

    def make_plugin(self):
        return Careful()


class TestRecorder(PluginConformance):
    """The recorder itself."""

    def make_plugin(self):
        return Recorder()


class Limiter:
    """Refuses two of three."""

    calls = 0

    @hookimpl
    def llmkit_pre_request(self):
        self.calls += 1
        if self.calls % 3:
            raise RateLimited("a third", retry_after=1.0)


class TestLimiter(PluginConformance):
    """A plugin may refuse."""

    def make_plugin(self):
        return Limiter()


class Multiplexer:
    """Shares everything."""

    @hookimpl
    def llmkit_pre_request(self, call):
        return Share(call.messages)


class TestMultiplexer(PluginConformance):
    """A plugin may share."""

    def make_plugin(self):
        return Multiplexer()


class Cache:
    """Answers by itself."""

    @hookimpl
    def llmkit_pre_request(self):
        return Answer(Response("x"), ["x"])


class TestCache(PluginConformance):
    """A plugin may answer."""

    def make_plugin(self):
        return Cache()


class Leaky(Careful):
    @hookimpl
    def llmkit_post_attempt(self, call, attempt): ...


class LeakyWhenRefused(Careful):
    @hookimpl
    def llmkit_error(self, call, error):
        if call.outcome != "refused":
            call.state.pop(self, None)


class LeakyWhenCancelled(Careful):
    @hookimpl
    def llmkit_error(self, call, error):
        if call.outcome != "cancelled":
            call.state.pop(self, None)


class LeakyWhenShared(Careful):
    @hookimpl
    def llmkit_post_response(self, call, response):
        if response.shared is None:
            call.state.pop(self, None)


class LeakyWhenFailedOver(Careful):
    @hookimpl
    def llmkit_post_attempt(self, call, attempt):
        if attempt.outcome != "error":
            attempt.state.pop(self, None)


class Buggy(Careful):
    @hookimpl
    def llmkit_error(self, call, error):
        call.state.pop(self)
        raise KeyError("a bug")


class Sleepy(Careful):
    @hookimpl
    def llmkit_post_attempt(self, call, attempt):
        attempt.state.pop(self, None)
        time.sleep(0.0)


class Chatty(Careful):
    @hookimpl
    def llmkit_post_response(self, call, response):
        call.state.pop(self, None)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as letter:
            letter.sendto(b"done", ("127.0.0.1", 9))


class ClosedOnce(Careful):
    def close(self):
        del self.open


class NotForThreads(Careful):
    @hookimpl
    def llmkit_pre_request(self, call):
        if self.open:
            raise RuntimeError("one at a time")
        self.open += 1
        call.state[self] = True
        time.sleep(0.001)

    def _done(self, call):
        if call.state.pop(self, None):
            self.open -= 1

    @hookimpl
    def llmkit_post_response(self, call, response):
        self._done(call)

    @hookimpl
    def llmkit_error(self, call, error):
        self._done(call)


@pytest.mark.parametrize(
    ("bad", "test", "arguments", "message"),
    [
        (Leaky, "test_an_answer", {"mode": "run"}, "attempt.state keeps"),
        (LeakyWhenRefused, "test_a_later_plugin_refuses", {"mode": "arun", "hook": "llmkit_route"}, "call.state keeps"),
        (LeakyWhenCancelled, "test_cancelled_at_every_await", {"mode": "astream"}, "call.state keeps"),
        (LeakyWhenCancelled, "test_an_abandoned_stream", {"how": "garbage"}, "call.state keeps"),
        (LeakyWhenCancelled, "test_an_abandoned_async_stream", {}, "call.state keeps"),
        (LeakyWhenCancelled, "test_a_call_that_a_framework_sends", {"end": "cancel"}, None),
        (LeakyWhenShared, "test_a_shared_answer", {"mode": "arun"}, "call.state keeps"),
        (LeakyWhenFailedOver, "test_failover", {"mode": "stream"}, "attempt.state keeps"),
        (LeakyWhenFailedOver, "test_a_failure", {"mode": "astream"}, "attempt.state keeps"),
        (Buggy, "test_a_failure", {"mode": "run"}, "hooks failed, see the log: Buggy.llmkit_error"),
        (Sleepy, "test_hooks_that_must_not_wait_do_not_block", {"mode": "arun"}, "a post hook blocked: time.sleep"),
        (Chatty, "test_hooks_that_must_not_wait_do_not_block", {"mode": "run"}, "a post hook blocked: socket.sendto"),
        (ClosedOnce, "test_closed_twice", {}, "open"),
        (NotForThreads, "test_threads", {}, "hooks failed"),
    ],
)
def test_bad_plugins_fail(bad, test, arguments, message):
    """Each kind of fault is found by the test that is there for it, with a message that says what is wrong."""

    class Case(PluginConformance):
        def make_plugin(self):
            return bad()

    if message is None:  # it refuses: this caller cannot wait
        getattr(Case(), test)(**arguments)
        return
    with pytest.raises((AssertionError, AttributeError), match=message):
        getattr(Case(), test)(**arguments)


def test_a_hook_that_is_never_told(monkeypatch):
    """An engine that forgot to tell an end would be found out too."""
    from llmkit_plugins.engine import lifecycle

    class Case(PluginConformance):
        def make_plugin(self):
            return Careful()

    monkeypatch.setattr(lifecycle, "_end_well", lambda *_: None)
    with pytest.raises(AssertionError, match="not told the end, or twice"):
        Case().test_an_answer(mode="run")


def test_a_task_that_is_left_behind():
    """A plugin that starts a task for each call is found out."""
    import asyncio

    class Starting(Careful):
        @hookimpl
        def llmkit_post_response(self, call):
            call.state.pop(self, None)
            self.task = asyncio.get_running_loop().create_task(asyncio.sleep(9.0))

    class Case(PluginConformance):
        def make_plugin(self):
            return Starting()

    with pytest.raises(AssertionError, match="tasks were left behind"):
        Case().test_a_shared_answer(mode="arun")


def test_without_a_plugin():
    """Who forgets to say how the plugin is made is told so."""
    with pytest.raises(NotImplementedError, match="override make_plugin"):
        PluginConformance().test_an_answer(mode="run")


def test_every_test_says_what_it_is_about():
    """Authors of plugins read the docstrings of the tests that fail."""
    tests = [test for name, test in inspect.getmembers(PluginConformance) if name.startswith("test_")]
    assert len(tests) >= 14
    assert all(test.__doc__ for test in tests)


def test_the_clock_of_the_case_is_the_kits():
    """A plugin that takes a clock is given the one that the calls run on."""

    class Case(PluginConformance):
        def make_plugin(self):
            plugin = Careful()
            plugin.attach = lambda kit: kits.append(kit)
            return plugin

    kits: list[LLMKit] = []
    case = Case()
    case.test_an_answer(mode="arun")
    assert kits[0].clock is case.clock
    assert case.clock() == 1.0
