"""How fast traffic follows what happens, in simulated time."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest

from llmkit_plugins import Call

BEGIN, END = 1300.0, 1600.0
"""When the brown-out of ``a`` is; the lab's clock begins at 1000."""

UNEQUAL = {"a": 0.3, "b": 0.6, "c": 1.0}
EQUAL = dict.fromkeys("abcd", 0.5)

BROWN_OUTS = [
    pytest.param({"first": 3.0, "token": 0.05}, id="slow"),
    pytest.param({"failing": 1.0}, id="out"),
    pytest.param({"failing": 0.6}, id="failing"),
]


def behaviours(firsts: dict[str, float], **brown_out: float) -> Any:
    """Each target takes that long until the first chunk; ``a`` has a brown-out."""

    def of(name: str, now: float) -> dict[str, float]:
        usual = {"first": firsts[name]}
        return {**usual, **brown_out} if name == "a" and BEGIN <= now < END else usual

    return of


@pytest.mark.parametrize("brown_out", BROWN_OUTS)
@pytest.mark.parametrize("rate", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("settings", [{}, {"power_of_two_above": 0}], ids=["ranking", "power of two"])
def test_a_recovered_target_gets_its_share_back_within_a_minute(lab, brown_out, rate: float, settings) -> None:
    """Most calls go to the fastest, hardly any while it has a brown-out, and most again a minute after its end."""
    made = lab(optimize_for="latency", exploration=0.01, **settings)
    made.traffic(rate, END + 120.0, behaviours(UNEQUAL, **brown_out))
    before = made.part("a", BEGIN - 200.0, BEGIN)
    assert before > 0.6
    assert made.part("a", BEGIN + 60.0, END) < 0.15
    assert made.part("a", END + 60.0, END + 120.0) > 0.8 * before


@pytest.mark.parametrize("mode", ["latency", "cost", "balanced"])
@pytest.mark.parametrize("brown_out", BROWN_OUTS)
def test_equal_targets_recover_too(lab, brown_out, mode: str) -> None:
    """By any goal, one of three equals has about its third again a minute after its brown-out, on average."""
    parts = []
    for seed in range(3):
        made = lab(prices=dict.fromkeys("abc", (1.0, 1.0)), seed=seed, optimize_for=mode, exploration=0.01)
        made.traffic(10.0, END + 180.0, behaviours(EQUAL, **brown_out))
        assert made.part("a", BEGIN + 60.0, END) < 0.1
        parts.append(made.part("a", END + 60.0, END + 180.0))
    assert fmean(parts) > 0.25


@pytest.mark.parametrize(("kind", "factor"), [("slow", 5.0), ("slow", 20.0), ("fails", 0.0)])
def test_a_degraded_target_loses_its_share_within_twenty_calls(lab, kind: str, factor: float) -> None:
    """Called one after the other, the fastest target is left alone before its twentieth bad call."""
    made = lab(optimize_for="latency")
    made.teach(times=60, a=1.0, b=2.0, c=3.0)
    bad = 0
    while made.router.route(Call("hi", "m")).target.name == "a":
        made.fail("a") if kind == "fails" else made.answer("a", first=factor / 2, seconds=factor)
        bad += 1
        assert bad < 20
    assert made.shares(100)["a"] == 0


@pytest.mark.parametrize("settings", [{}, {"power_of_two_above": 0}], ids=["ranking", "power of two"])
@pytest.mark.parametrize("trained", [False, True])
def test_two_hundred_at_once_do_not_stampede(lab, settings, trained: bool) -> None:
    """Of two hundred calls at the same moment no target gets more than twice its part, whatever was read last."""
    made = lab("abcd", optimize_for="latency", **settings)
    if trained:
        made.teach(times=30, a=1.0, b=1.1, c=1.15, d=1.05)
    for _ in range(200):
        made.begin(made.router.route(Call("hi", "m")).target.name)
    assert max(stats.in_flight for stats in made.router.stats().values()) <= 100


@pytest.mark.parametrize("seed", range(4))
def test_two_hundred_callers_do_not_stampede(lab, seed: int) -> None:
    """Two hundred callers a second at four equal targets: none gets more than twice its part in any second."""
    made = lab("abcd", seed=seed, optimize_for="latency", exploration=0.01)
    made.traffic(200.0, 1030.0, behaviours(EQUAL))
    for second in range(1000, 1030):
        assert max(made.part(name, second, second + 1) for name in "abcd") <= 0.5


def test_exploration_costs_what_it_may(lab) -> None:
    """Where one target is always the best, of ten thousand calls about a hundredth of the cost goes elsewhere."""
    made = lab(prices={"a": (1.0, 1.0), "b": (4.0, 4.0), "c": (20.0, 20.0)}, optimize_for="cost", exploration=0.01)
    made.traffic(10.0, 2000.0, behaviours(EQUAL))
    elsewhere = 4 * made.part("b", 1100.0, 2000.0) + 20 * made.part("c", 1100.0, 2000.0)
    assert 0.005 < elsewhere < 0.02


def test_without_exploration_nobody_is_tried(lab) -> None:
    """With 0 the others are not used at all while the best is good."""
    made = lab(prices={"a": (1.0, 1.0), "b": (4.0, 4.0), "c": (20.0, 20.0)}, optimize_for="cost")
    made.traffic(10.0, 1500.0, behaviours(EQUAL))
    assert made.part("a", 1010.0, 1500.0) == 1.0


def test_a_target_nobody_knows_is_tried_soon(lab) -> None:
    """One that joins later, and happens to be the fastest, is found within seconds and soon has most of the traffic."""
    made = lab("bc", optimize_for="latency", exploration=0.01)
    usual = behaviours(UNEQUAL)
    made.traffic(5.0, 1100.0, usual)
    joined = lab("abc").router.targets
    made.router.targets = joined
    made.traffic(5.0, 1200.0, usual)
    assert made.part("a", 1140.0, 1200.0) > 0.6


def test_two_choices_find_a_target_that_became_better_than_ever(lab) -> None:
    """One that always was the slowest, and is suddenly the fastest, is found although it loses every comparison."""
    made = lab(optimize_for="latency", exploration=0.05, power_of_two_above=0)
    made.teach(times=60, a=0.8, b=1.1, c=1.5)
    whys = set()
    for _ in range(600):
        decision = made.router.route(Call("hi", "m"))
        whys.add(decision.why)
        seconds = {"a": 0.8, "b": 1.1, "c": 0.2}[decision.target.name]
        made.answer(decision.target.name, first=seconds / 2, seconds=seconds)
    assert whys == {"two_choices", "probe"}
    assert made.shares(100)["c"] > 80


def test_failovers_are_no_probes(lab) -> None:
    """A call that has just failed is not made to try whether somebody has recovered."""
    made = lab("ab", optimize_for="latency", exploration=0.5)
    made.teach(times=60, a=1.0, b=5.0)
    call = Call("hi", "m")
    call.attempts.append(made.begin("a"))
    for _ in range(50):
        made.clock.advance(5.0)
        assert made.router.route(call).target.name == "a"
