"""How long the hooks take: in one call of so many, without what they wait for, and nothing is changed by it."""

from __future__ import annotations

import pytest

from llmkit_plugins import Ask, Call, ConfigError, LLMKit, Refused, Target, Wait
from llmkit_plugins.engine.plan import Plan
from llmkit_plugins.engine.timing import HookTimer
from llmkit_plugins.testing import MODES, ScriptedBackend, drive

A = Target("a", "provider", "model")


@pytest.mark.parametrize("mode", MODES)
def test_one_call_of_so_many_is_timed(mode, plugin):
    """Of six calls the third and the sixth, each hook of theirs once."""
    took: list[tuple[str, str]] = []
    kit = LLMKit([plugin("one", pre_request=lambda call: None, post_response=lambda call, response: None)], [A])
    kit.time_hooks(lambda name, hook, seconds: took.append((name, hook)), every=3)
    per_call = []
    for _ in range(6):
        drive(kit, Call("hi"), ScriptedBackend(), mode)
        per_call.append(len(took))
    assert per_call == [0, 0, 2, 2, 2, 4]
    assert set(took) == {("one", "llmkit_pre_request"), ("one", "llmkit_post_response")}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("waits", [True, False])
def test_who_is_told_has_a_bug(mode, plugin, waits):
    """It is his, and counted as such: what the hook said counts all the same."""

    def refuse(call):
        raise Refused("no")

    def refuse_late(call):
        yield Wait(0.0)
        raise Refused("no")

    def took(name, hook, seconds):
        raise ZeroDivisionError

    kit = LLMKit([plugin(pre_request=refuse_late if waits else refuse)], [A])
    kit.time_hooks(took, every=1)
    with pytest.raises(Refused):
        drive(kit, Call("hi"), ScriptedBackend(), mode)
    ((where, times),) = kit.bugs.items()
    assert where.endswith("took")
    assert times == 1


def test_none_of_the_calls_cannot_be_timed():
    """That would break every call."""
    with pytest.raises(ConfigError, match="every: 0 is not valid"):
        LLMKit().time_hooks(print, every=0)


def test_a_plugin_that_comes_later_is_timed_too(plugin):
    """The watched hooks are compiled anew whenever the plugins change."""
    took: list[str] = []
    kit = LLMKit([plugin("one", pre_request=lambda call: None)], [A])
    kit.time_hooks(lambda name, hook, seconds: took.append(name), every=1)
    kit.register(plugin("two", pre_request=lambda call: None))
    kit.call(Call("hi"), ScriptedBackend())
    assert took == ["one", "two"]


@pytest.fixture
def watched():
    """The flow of a pre_request hook on a stopwatch that moves a second whenever it is read, and what it told."""

    def watch(function):
        told: list[float] = []
        ticks = iter(range(1000))
        timer = HookTimer(lambda name, hook, seconds: told.append(seconds), 1, lambda: float(next(ticks)))
        kit = LLMKit([function], [A])
        plan: Plan = timer.timed(kit._plan)
        return plan.pre_request[0].function, told

    return watch


def test_the_steps_of_a_hook_are_added_up(plugin, watched):
    """Three stretches of a second each, told once at the end; what is sent and returned goes through."""

    def hook(call):
        answer = yield Wait(5.0)
        answer += yield Ask(lambda: 1, lambda: None)
        return answer

    function, told = watched(plugin(pre_request=hook))
    flow = function(Call())
    assert next(flow) == Wait(5.0)
    assert isinstance(flow.send(40), Ask)
    with pytest.raises(StopIteration) as end:
        flow.send(2)
    assert end.value.value == 42
    assert told == [3.0]


def test_what_is_thrown_in_arrives_and_what_is_raised_leaves(plugin, watched):
    """The hook sees the error of its step, and its own refusal goes up."""

    def hook(call):
        try:
            yield Wait(1.0)
        except TimeoutError:
            raise Refused("late") from None

    function, told = watched(plugin(pre_request=hook))
    flow = function(Call())
    next(flow)
    with pytest.raises(Refused, match="late"):
        flow.throw(TimeoutError())
    assert told == [2.0]


def test_a_hook_whose_caller_left_is_closed_and_told(plugin, watched):
    """Its own clean-up runs."""
    closed = []

    def hook(call):
        try:
            yield Wait(1.0)
        finally:
            closed.append(True)

    function, told = watched(plugin(pre_request=hook))
    flow = function(Call())
    next(flow)
    flow.close()
    assert closed == [True]
    assert told == [1.0]


def test_a_plain_hook_that_raises_is_told(plugin, watched):
    """Once, with its time."""

    def hook(call):
        raise ZeroDivisionError

    function, told = watched(plugin(pre_request=hook))
    with pytest.raises(ZeroDivisionError):
        function(Call())
    assert told == [1.0]
