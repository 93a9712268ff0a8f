"""The plugin laws, as a test class for plugin authors to inherit from."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import Any

import pytest

from llmkit_plugins.call import Call, Target
from llmkit_plugins.engine.plan import HOOKS
from llmkit_plugins.engine.telling import settle
from llmkit_plugins.errors import Refused, UpstreamLost
from llmkit_plugins.hookspecs import hookimpl
from llmkit_plugins.kit import LLMKit
from llmkit_plugins.steps import Share
from llmkit_plugins.testing.blocking import AfterPostHooks, BeforePostHooks
from llmkit_plugins.testing.cancelling import CancelAt
from llmkit_plugins.testing.clock import ManualClock
from llmkit_plugins.testing.driving import MODES, adrive, drive
from llmkit_plugins.testing.recorder import Recorder
from llmkit_plugins.testing.scripted import Failure, Pause, ScriptedBackend

every_mode = pytest.mark.parametrize("mode", MODES)
every_async_mode = pytest.mark.parametrize("mode", ["arun", "astream"])


class PluginConformance:
    """Tests that a plugin obeys the laws, in every mode. Inherit from it and override ``make_plugin``::

        class TestEuOnly(PluginConformance):
            def make_plugin(self):
                return EuOnly()

    In these tests, a plugin may refuse, wait, ask, answer or share; it must not have a bug, block in a hook that must
    not wait, or leave anything behind after a call, however it ended. Override ``make_call`` and ``make_targets`` if it
    needs particular ones.
    """

    @cached_property
    def clock(self) -> ManualClock:
        """The test's clock, for a plugin that takes one."""
        return ManualClock()

    def make_plugin(self) -> Any:
        """A new plugin."""
        raise NotImplementedError("say how the plugin is made: override make_plugin()")

    def make_call(self) -> Call:
        """A new call that is relevant to the plugin."""
        return Call("hi", user="u1", tenant="t1")

    def make_targets(self) -> Sequence[Target]:
        """At least two targets."""
        return [Target("a", "p1", "m", input_price=1.0, output_price=2.0), Target("b", "p2", "m")]

    # -- the ways a call can go -------------------------------------------------------------------------------------

    @every_mode
    def test_an_answer(self, mode: str) -> None:
        """A call that is answered."""
        stage = _Stage(self)
        stage.drive(mode)
        stage.check()

    @every_mode
    def test_many_calls(self, mode: str) -> None:
        """One call after another, some time apart."""
        stage = _Stage(self)
        for _ in range(20):
            stage.drive(mode)
            self.clock.advance(1.0)
        stage.check()

    @every_mode
    def test_a_failure(self, mode: str) -> None:
        """A call for which every target fails."""
        stage = _Stage(self, lines=[Failure("overloaded", retry_after=2.0)])
        stage.drive(mode)
        stage.check()

    @every_mode
    def test_failover(self, mode: str) -> None:
        """A call for which the first target fails and the second answers."""
        stage = _Stage(self)
        stage.backend.script = {stage.kit.targets[0].name: ["", Failure("server")]}
        stage.drive(mode)
        stage.check()

    @every_mode
    @pytest.mark.parametrize("hook", ["llmkit_pre_request", "llmkit_route", "llmkit_pre_attempt"])
    def test_a_later_plugin_refuses(self, mode: str, hook: str) -> None:
        """A call, or a target, that a plugin listed after this one refuses."""
        stage = _Stage(self, _Raising([hook], Refused("a later plugin says no", 1.0)))
        stage.drive(mode)
        stage.check()

    @every_mode
    def test_a_later_plugin_has_a_bug(self, mode: str) -> None:
        """A call during which every hook of another plugin raises."""
        stage = _Stage(self, _Raising(HOOKS, ZeroDivisionError("a bug of another plugin")))
        stage.drive(mode)
        stage.check(bugs_of_others=True)

    @every_async_mode
    def test_a_shared_answer(self, mode: str) -> None:
        """Calls that share an upstream: the followers have no attempts, and cost nothing."""
        stage = _Stage(self, _Sharing())
        stage.run(stage.gather(mode, 5))
        stage.check()

    @pytest.mark.parametrize("end", ["finish", "fail", "cancel"])
    def test_a_call_that_a_framework_sends(self, end: str) -> None:
        """A call begun in a callback that cannot wait, and ended in each possible way."""
        stage = _Stage(self)
        with suppress(Refused):
            handle = stage.kit.begin(stage.new_call(), stage.kit.targets[0])
            handle.fail(Failure()) if end == "fail" else getattr(handle, end)()
        stage.check()

    # -- callers that go away ---------------------------------------------------------------------------------------

    @every_async_mode
    def test_cancelled_at_every_await(self, mode: str) -> None:
        """A caller that is cancelled at any point of the call."""
        at, reached = 0, 0
        while reached >= at:
            at += 1
            stage = _Stage(self)
            caller = CancelAt(stage.acall(mode), at)
            stage.run(_quietly(caller))
            reached = caller.suspensions
            stage.check()

    @pytest.mark.parametrize("how", ["closed", "dropped", "garbage", "closed in another thread"])
    def test_an_abandoned_stream(self, how: str) -> None:
        """A stream that is abandoned half-way, in each possible way."""
        stage = _Stage(self)
        stream: Any = stage.kit.stream(stage.new_call(), stage.backend)
        with suppress(Refused):
            next(stream)
        if how == "closed":
            stream.close()
        elif how == "closed in another thread":
            _in_threads(stream.close)
        elif how == "garbage":
            cycle = [stream]
            cycle.append(cycle)
            del cycle
        del stream
        if how == "garbage":
            gc.collect()
        stage.check()

    def test_an_abandoned_async_stream(self) -> None:
        """The same under an event loop."""
        stage = _Stage(self, lines=["x", Pause(60.0), "y"])

        async def leave() -> None:
            stream = stage.kit.astream(stage.new_call(), stage.backend)
            with suppress(Refused):
                async for _ in stream:
                    break

        stage.run(leave())
        stage.check()

    # -- manners ----------------------------------------------------------------------------------------------------

    @every_mode
    def test_hooks_that_must_not_wait_do_not_block(self, mode: str) -> None:
        """No post hook sleeps or uses the network: an event loop or a garbage collection may be waiting for it."""
        stage = _Stage(self, BeforePostHooks(), before=AfterPostHooks())
        stage.drive(mode)
        stage.backend.default = [Failure()]
        stage.drive(mode)
        blocked = stage.kit.plugins["BeforePostHooks"].blocked
        _expect(not blocked, f"a post hook blocked: {', '.join(blocked)} (queue what has to wait)")

    def test_threads(self) -> None:
        """Concurrent calls from several threads, streamed and not."""
        stage = _Stage(self)

        def work() -> None:
            for turn in range(25):
                stage.drive("stream" if turn % 2 else "run")

        _in_threads(*[work] * 4)
        stage.check()

    def test_closed_twice(self) -> None:
        """A plugin with a ``close`` may be closed twice, and before it is ever used."""
        plugin = self.make_plugin()
        if hasattr(plugin, "close"):
            plugin.close()
            plugin.close()
        stage = _Stage(self)
        stage.drive("run")
        stage.kit.close()
        stage.check()


class _Stage:
    """The plugin in a kit, with a recorder on each side, in front of a scripted backend."""

    def __init__(self, case: PluginConformance, *after: Any, before: Any = None, lines: Sequence[Any] | None = None):
        self.case, self.plugin = case, case.make_plugin()
        self.outer, self.inner = Recorder(), Recorder()
        plugins = [self.outer, *([] if before is None else [before]), self.plugin, self.inner, *after]
        self.kit = LLMKit(plugins, case.make_targets(), clock=case.clock)
        self.backend = ScriptedBackend(sleep=case.clock.sleep)
        self.backend.default = self.backend.default if lines is None else lines
        self.calls: list[Call] = []

    def new_call(self) -> Call:
        self.calls.append(self.case.make_call())
        return self.calls[-1]

    def drive(self, mode: str) -> None:
        with suppress(Refused, Failure):
            drive(self.kit, self.new_call(), self.backend, mode)

    async def acall(self, mode: str) -> None:
        with suppress(Refused, Failure, UpstreamLost):
            await adrive(self.kit, self.new_call(), self.backend, mode)

    async def gather(self, mode: str, callers: int) -> None:
        await asyncio.gather(*[self.acall(mode) for _ in range(callers)])

    def run(self, scenario: Coroutine[Any, Any, Any]) -> None:
        async def watched() -> None:
            await scenario
            for _ in range(20):
                await asyncio.sleep(0)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            _expect(not left, f"tasks were left behind: {left}")

        self.case.clock.run(watched())

    def check(self, *, bugs_of_others: bool = False) -> None:
        """Check that nothing is left of the calls and that the plugin had no bug."""
        settle()
        mine = next(name for name, plugin in self.kit.plugins.items() if plugin is self.plugin)
        bugs = [who for who in self.kit.bugs if not bugs_of_others or who.startswith(f"{mine}.")]
        _expect(not bugs, f"hooks failed, see the log: {', '.join(bugs)}")
        for recorder in (self.outer, self.inner):
            _expect(not recorder.open, f"some were not told the end, or twice: {dict(recorder.open)}")
        for call in self.calls:
            for what, state in (("call", call.state), *[("attempt", attempt.state) for attempt in call.attempts]):
                _expect(self.plugin not in state, f"{what}.state keeps what the plugin put there (pop it in the end)")


class _Raising:
    """Raises *error* in each of *hooks*."""

    def __init__(self, hooks: Iterable[str], error: Exception) -> None:
        def fail() -> None:
            raise error

        for hook in hooks:
            setattr(self, hook, hookimpl(fail))


class _Sharing:
    @hookimpl
    def llmkit_pre_request(self) -> Share:
        return Share("key")


async def _quietly(caller: CancelAt[None]) -> None:
    async def make() -> None:
        await caller

    task = asyncio.ensure_future(make())
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def _in_threads(*functions: Callable[[], None]) -> None:
    with ThreadPoolExecutor(len(functions)) as threads:
        for done in [threads.submit(function) for function in functions]:
            done.result()


def _expect(condition: bool, otherwise: str) -> None:  # noqa: FBT001
    if not condition:
        raise AssertionError(otherwise)
