"""Times the hooks in a sample of the calls, using a second set of hooks so that other calls pay nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from itertools import count
from types import GeneratorType
from typing import Any

from llmkit_plugins.clock import Clock
from llmkit_plugins.engine.plan import Bugs, Hook, Plan
from llmkit_plugins.engine.telling import inform

Steps = Generator[Any, Any, Any]
Took = Callable[[str, str, float], Any]
"""Called with a plugin, its hook, and seconds."""


class HookTimer:
    """Reports to *took* how long the hooks take in one of *every* calls, not counting the time they wait."""

    def __init__(self, took: Took, every: int, stopwatch: Clock = time.perf_counter) -> None:
        self._took, self._every, self._stopwatch = took, every, stopwatch
        self._calls = count(1)

    def due(self) -> bool:
        """Whether the call that is starting should be timed."""
        return next(self._calls) % self._every == 0

    def timed(self, plan: Plan) -> Plan:
        """The same plan, each hook with a stopwatch."""
        return replace(
            plan,
            pre_request=self._watch(plan.pre_request, plan.bugs),
            route=self._watch(plan.route, plan.bugs),
            pre_attempt=self._watch(plan.pre_attempt, plan.bugs),
            post_attempt=self._watch(plan.post_attempt, plan.bugs),
            post_response=self._watch(plan.post_response, plan.bugs),
            error=self._watch(plan.error, plan.bugs),
        )

    def _watch(self, hooks: tuple[Hook, ...], bugs: Bugs) -> tuple[Hook, ...]:
        return tuple([self._watched(hook, bugs) for hook in hooks])

    def _watched(self, hook: Hook, bugs: Bugs) -> Hook:
        plugin, _, name = hook.who.rpartition(".")
        function, stopwatch = hook.function, self._stopwatch
        told = partial(inform, bugs, (self._took,), plugin, name)

        def watched(*args: Any) -> Any:
            begun, said = stopwatch(), None
            try:
                said = function(*args)
            finally:
                if type(said) is not GeneratorType:
                    told(stopwatch() - begun)
            return _watched_steps(said, told, stopwatch) if type(said) is GeneratorType else said

        return hook._replace(function=watched)


def _watched_steps(steps: Steps, told: Callable[[float], Any], stopwatch: Clock) -> Steps:
    """*steps*, timed; the time spent performing each step is not counted."""
    seconds = 0.0
    resume: Callable[[Any], Any] = steps.send
    value: Any = None
    try:
        while True:
            begun = stopwatch()
            try:
                step = resume(value)
            finally:
                seconds += stopwatch() - begun
            try:
                resume, value = steps.send, (yield step)
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as error:
                resume, value = steps.throw, error
    except StopIteration as end:
        return end.value
    finally:
        del value  # a retained error would keep this frame alive
        told(seconds)
