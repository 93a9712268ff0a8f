"""The router among other plugins: what it is told, what it leaves them, and what it refuses."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from llmkit_plugins import Call, LLMKit, NoTarget, RateLimited, Target, hookimpl
from llmkit_plugins.events import Routed
from llmkit_plugins.plugins.router import RouterPlugin
from llmkit_plugins.testing import MODES, Failure, ManualClock, Pause, ScriptedBackend, drive

TARGETS = [
    Target(name, "p", "m", input_price=price, output_price=price) for name, price in zip("abc", (1, 2, 3), strict=True)
]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def kit_of(clock: ManualClock, *others: Any, **settings: Any) -> tuple[LLMKit, RouterPlugin]:
    """A kit that routes by cost: ``a``, then ``b``, then ``c``."""
    router = RouterPlugin(random=Random(1).random, **{"optimize_for": "cost", "exploration": 0.0, **settings})
    return LLMKit([router, *others], TARGETS, clock=clock, on_plugin_error="raise"), router


class Refuse:
    """Refuses every attempt at the targets called *names*."""

    def __init__(self, names: str) -> None:
        self.names = names

    @hookimpl
    def llmkit_pre_attempt(self, attempt) -> None:
        if attempt.target.name in self.names:
            raise RateLimited("theirs", retry_after=1.0)


def test_all_targets_stay_for_those_who_come_after(clock: ManualClock) -> None:
    """A plugin after it sees every target, in the router's order."""
    seen = []

    class After:
        @hookimpl
        def llmkit_route(self, targets):
            seen.append([target.name for target in targets])
            return targets

    kit, _ = kit_of(clock, After())
    drive(kit, Call("hi"), ScriptedBackend(), "run")
    assert seen == [["a", "b", "c"]]


def test_what_is_under_way_is_counted(clock: ManualClock, mode: str) -> None:
    """While an attempt is under way it is in flight there, and afterwards it is not, however it ended."""
    kit, plugin = kit_of(clock)
    seen = []
    for line in ("x", Failure("server"), Failure("bad_request")):

        def look(line: Any = line) -> Any:
            seen.append({name: stats.in_flight for name, stats in plugin.router.stats().items() if stats.in_flight})
            return line

        call = Call("hi")
        try:
            drive(kit, call, ScriptedBackend(default=[look]), mode)
        except Failure:
            assert line != "x"
        assert all(stats.in_flight == 0 for stats in plugin.router.stats().values())
    assert all(sum(each.values()) == 1 for each in seen)


def test_who_leaves_is_neither_good_nor_bad(clock: ManualClock) -> None:
    """A stream left half-way is no answer and no failure, and in flight no longer."""
    kit, plugin = kit_of(clock)
    for _ in range(10):
        stream = kit.stream(Call("hi"), ScriptedBackend())
        next(stream)
        stream.close()
    stats = plugin.router.stats()["a"]
    assert (stats.in_flight, stats.answers, stats.failures) == (0, 0, 0)


def test_refusals_of_others_are_no_failovers(clock: ManualClock, mode: str) -> None:
    """A target that another plugin refused costs no budget and says nothing about the target."""
    kit, plugin = kit_of(clock, Refuse("ab"), failover_share=0.0, failover_floor=0)
    backend = ScriptedBackend()
    for _ in range(20):
        assert drive(kit, Call("hi"), backend, mode) == "abc"
    assert backend.sent == {"c": 20}
    assert plugin.router.stats()["a"].failures == 0


def test_without_budget_the_providers_error_is_raised(clock: ManualClock, mode: str) -> None:
    """Nobody else is asked, and the caller gets what the provider said."""
    kit, _ = kit_of(clock, failover_share=0.0, failover_floor=0)
    backend = ScriptedBackend({"a": [Failure("server")]})
    with pytest.raises(Failure):
        drive(kit, Call("hi"), backend, mode)
    assert backend.sent == {"a": 1}


def test_a_share_of_the_calls_may_fail_over(clock: ManualClock) -> None:
    """In an outage of everybody, a hundred calls make a hundred attempts, twenty failovers and the floor."""
    kit, _ = kit_of(clock, failover_share=0.2, failover_floor=3)
    backend = ScriptedBackend(default=[Failure("server")])
    for _ in range(100):
        with pytest.raises(Failure):
            drive(kit, Call("hi"), backend, "run")
    assert sum(backend.sent.values()) == pytest.approx(100 + 20 + 3, abs=1)


def test_a_call_that_accepts_nobody_has_no_target(clock: ManualClock, mode: str) -> None:
    """The refusal names the router for each target."""
    kit, _ = kit_of(clock)
    with pytest.raises(NoTarget) as refused:
        drive(kit, Call("hi", metadata={"route": {"only": ["x"]}}), ScriptedBackend(), mode)
    assert {name: "router" in str(reason) for name, reason in refused.value.reasons.items()} == dict.fromkeys(
        "abc", True
    )


def test_a_failed_call_that_accepts_nobody_else_gets_the_providers_error(clock: ManualClock) -> None:
    """What it would not accept is not tried instead."""
    kit, _ = kit_of(clock)
    backend = ScriptedBackend({"b": [Failure("server")]})
    with pytest.raises(Failure):
        drive(kit, Call("hi", metadata={"route": {"only": ["b"]}}), backend, "run")
    assert backend.sent == {"b": 1}


def test_the_prediction_is_published(clock: ManualClock) -> None:
    """Whoever listens hears what the router expects: seconds and cost."""
    heard: list[Routed] = []
    kit, _ = kit_of(clock)
    kit.events.subscribe(Routed, heard.append)
    backend = ScriptedBackend(default=[Pause(2.0), "x"], sleep=clock.sleep)
    for _ in range(3):
        drive(kit, Call("hi", "m"), backend, "run")
    assert [event.target.name for event in heard] == ["a", "a", "a"]
    assert heard[-1].predicted_seconds == pytest.approx(2.0, rel=0.3)
    assert heard[-1].predicted_cost is not None
    assert heard[-1].predicted_cost > 0


def test_it_learns_by_the_clock_of_the_kit(clock: ManualClock) -> None:
    """Put into another kit it begins anew, by that kit's clock and with its targets."""
    kit, plugin = kit_of(clock)
    drive(kit, Call("hi"), ScriptedBackend(), "run")
    before = plugin.router
    LLMKit([plugin], TARGETS[:1], clock=ManualClock())
    assert plugin.router is not before
    assert plugin.router.targets == (TARGETS[0],)
    assert plugin.router.stats() == {}


def test_it_explains_what_the_kit_would_do(clock: ManualClock) -> None:
    """The plugin explains for the targets of its kit."""
    _, plugin = kit_of(clock)
    assert [row.target for row in plugin.explain(Call("hi")).rows] == ["a", "b", "c"]
