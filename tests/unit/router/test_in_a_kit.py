"""The router in a kit: which target is asked first, and what it learns."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from llmkit_plugins import Call, LLMKit, Target, Usage
from llmkit_plugins.events import Routed
from llmkit_plugins.plugins.circuit_breaker import CircuitBreakerPlugin
from llmkit_plugins.plugins.router import RouterPlugin, SmartRouter
from llmkit_plugins.testing import MODES, Failure, Last, ManualClock, Pause, PluginConformance, ScriptedBackend, drive

FAST = Target("fast", "p1", "m", input_price=10.0, output_price=30.0)
CHEAP = Target("cheap", "p2", "m", input_price=0.1, output_price=0.3)
SOLID = Target("solid", "p3", "m", input_price=3.0, output_price=9.0)


class TestRouterPlugin(PluginConformance):
    """It keeps the laws."""

    def make_plugin(self) -> RouterPlugin:
        return RouterPlugin(exploration=0.0)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def answer_in(seconds: float) -> list[Any]:
    return [Pause(seconds), "x", Last("y", usage=Usage(100, 50))]


def sent_by(mode: str, calls: int = 600, **settings: Any) -> ScriptedBackend:
    """What three targets are sent: one fast and dear, one cheap and slow, one that never fails. One call in a hundred
    explores, so that it takes some hundred to be sure of meeting each."""
    clock, chance = ManualClock(), Random(1)

    def flaky() -> Any:
        return Failure("server") if chance.random() < 0.2 else ""

    script = {
        "fast": [flaky, *answer_in(0.1)],
        "cheap": [flaky, *answer_in(2.0)],
        "solid": answer_in(1.0),
    }
    backend = ScriptedBackend(script, sleep=clock.sleep)
    plugin = RouterPlugin(random=Random(2).random, failover_share=1.0, failover_floor=1000, **settings)
    kit = LLMKit([plugin], [CHEAP, SOLID, FAST], clock=clock)
    for _ in range(calls):
        drive(kit, Call("hi", model="m"), backend, mode)
    return backend


@pytest.mark.parametrize(("goal", "best"), [("latency", "fast"), ("cost", "cheap"), ("reliability", "solid")])
def test_each_goal_has_its_target(mode: str, goal: str, best: str) -> None:
    """Most of the traffic goes where the goal says, whatever order the targets were given in."""
    sent = sent_by(mode, optimize_for=goal).sent
    assert sent[best] > 0.6 * sum(sent.values())


def test_the_cheapest_that_is_fast_enough(mode: str) -> None:
    """With an objective the cheapest target that meets it is taken: the slow one is not, however cheap."""
    sent = sent_by(mode, max_latency_seconds=1.5, min_success_rate=0.9).sent
    assert sent["solid"] > 0.6 * sum(sent.values())


def test_a_failover_goes_to_the_next_best() -> None:
    """All targets stay in the order, so that those that come after the router have something to choose from."""
    clock = ManualClock()
    backend = ScriptedBackend({"cheap": [Failure("server")]}, sleep=clock.sleep)
    kit = LLMKit([RouterPlugin(optimize_for="cost"), CircuitBreakerPlugin()], [FAST, SOLID, CHEAP], clock=clock)
    assert drive(kit, Call("hi"), backend, "run") == "abc"
    assert backend.sent == {"cheap": 1, "solid": 1}


def test_an_outage_is_not_multiplied() -> None:
    """Once the budget of failovers is spent, the provider's error is raised instead of being tried elsewhere."""
    clock = ManualClock()
    backend = ScriptedBackend(default=[Failure("server")], sleep=clock.sleep)
    kit = LLMKit([RouterPlugin(failover_share=0.0, failover_floor=5)], [FAST, SOLID, CHEAP], clock=clock)
    for _ in range(20):
        with pytest.raises(Failure):
            drive(kit, Call("hi"), backend, "run")
    assert sum(backend.sent.values()) == 25


def test_a_call_may_want_something_else() -> None:
    """What its metadata asks for counts for this call alone; nonsense is ignored."""
    clock = ManualClock()
    backend = ScriptedBackend(sleep=clock.sleep)
    kit = LLMKit([RouterPlugin(optimize_for="cost", exploration=0.0)], [FAST, SOLID, CHEAP], clock=clock)
    drive(kit, Call("hi", metadata={"route": {"only": ["solid"]}}), backend, "run")
    drive(kit, Call("hi", metadata={"route": {"optimize_for": "nonsense"}}), backend, "run")
    assert backend.sent == {"solid": 1, "cheap": 1}


def test_decisions_are_told_with_their_reason() -> None:
    """Whoever listens hears where a call went and why."""
    heard: list[Routed] = []
    kit = LLMKit([RouterPlugin(optimize_for="cost", exploration=0.0)], [FAST, CHEAP], clock=ManualClock())
    kit.events.subscribe(Routed, heard.append)
    drive(kit, Call("hi"), ScriptedBackend(), "run")
    assert [(event.target, event.reason) for event in heard] == [(CHEAP, "best")]


def test_it_explains_itself() -> None:
    """Alone, without a kit: where a call would go, what that will take and cost, and the alternatives."""
    router = SmartRouter([FAST, SOLID, CHEAP], optimize_for="cost", exploration=0.0, clock=ManualClock())
    decision = router.route(Call("hi"))
    assert decision.target is CHEAP
    assert set(decision.fallbacks) == {FAST, SOLID}
    assert decision.predicted_latency_ms > 0
    assert decision.predicted_cost is not None
    assert any("cost" in reason for reason in decision.reasons)
    assert router.explain(Call("hi")).rows[0].target == "cheap"
