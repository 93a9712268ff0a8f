"""What is found out once for targets that calls can go to together."""

from __future__ import annotations

import pytest

from llmkit_plugins import Call, Target
from llmkit_plugins.plugins.router import knowledge
from llmkit_plugins.plugins.router.lineup import Lineup
from llmkit_plugins.plugins.router.scoring import compare, hope
from llmkit_plugins.tokens import MEASURED

PRICES = {"a": (5.0, 20.0), "b": (1.0, 4.0)}
SAME = {"a": (1.0, 4.0), "b": (1.0, 4.0)}


@pytest.mark.parametrize("mode", ["balanced", "cost"])
@pytest.mark.parametrize("prices", [PRICES, SAME, None])
def test_what_is_hoped_of_a_target_as_usual_is_what_is_thought_of_it(lab, mode: str, prices) -> None:
    """Both are the same product: whoever is now what it is in the long run has the same score by either."""
    made = lab("ab", prices=prices, optimize_for=mode)
    made.teach(times=200, a=1.0, b=3.0)
    case = made.router.case(Call("x" * 400, "m"), made.router.targets)
    scores = compare(case)
    for place in (0, 1):
        assert hope(case, place, 0) == pytest.approx(scores[place], rel=0.02)


@pytest.mark.parametrize(("prices", "measured"), [(PRICES, True), (SAME, False), (None, False)])
def test_a_prompt_is_measured_only_where_that_tells_targets_apart(lab, prices, measured: bool) -> None:
    """Where all cost the same, how long the prompt is does not matter; what the call will cost is told all the same."""
    made = lab("ab", prices=prices)
    call = Call("x" * 4000, "m", params={"max_tokens": 50})
    decision = made.router.route(call)
    assert (MEASURED in call.state) is measured
    if prices is SAME:
        assert decision.predicted_cost == pytest.approx((1000 * 1.0 + 50 * 4.0) / 1e6)


@pytest.mark.parametrize("power_of_two_above", [0, 64])
def test_who_was_forgotten_and_met_again_is_learned_of(lab, monkeypatch, power_of_two_above: int) -> None:
    """However often the same targets are offered, what is learned of them now is what decides."""
    monkeypatch.setattr(knowledge, "_MOST_TARGETS", 3)
    made = lab("ab", optimize_for="latency", power_of_two_above=power_of_two_above)
    made.teach(a=1.0, b=2.0)
    assert made.shares(20)["a"] >= 19
    for name in "xyz":
        made.router.route(Call("hi", "m"), [Target(name, "p", "m")])
    made.teach(a=2.0, b=1.0)
    assert made.shares(20)["b"] >= 19


def test_what_is_remembered_is_bounded(lab) -> None:
    """However many tuples of targets are offered, the latest are remembered."""
    made = lab("ab")
    for _ in range(300):
        made.router.route(Call("hi", "m"), [Target("a", "p", "m"), Target("b", "p", "m")])
    assert len(made.router._lineups) == knowledge._MOST_LINEUPS


def test_two_of_many_are_what_they_are_among_all() -> None:
    """A pair knows of each what the whole does."""
    targets = [
        Target(name, "p", "m", input_price=price, output_price=price) for name, price in (("a", 1.0), ("b", 2.0))
    ]
    whole = Lineup(targets, ["track of a", "track of b"], discounts=False)
    pair = whole.pair(1, 0)
    assert ([*pair.targets], [*pair.tracks]) == ([targets[1], targets[0]], ["track of b", "track of a"])
    assert [*pair.prices] == [(2e-6, 2e-6), (1e-6, 1e-6)]
    assert not pair.alike
