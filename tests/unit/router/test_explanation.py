"""What the router tells people."""

from __future__ import annotations

import pytest

from llmkit_plugins import Call, NoTarget
from llmkit_plugins.plugins.router import TargetStats

PRICES = {"a": (5.0, 20.0), "b": (1.0, 4.0)}


def test_every_target_is_in_the_table(lab) -> None:
    """The best first, with what is predicted there, and what else matters."""
    made = lab(prices=PRICES, optimize_for="cost", max_latency_seconds=20.0)
    made.teach(times=30, a=1.0, b=2.0, c=0.5)
    made.fail("a", kind="rate_limit", retry_after=30.0)
    made.begin("b")
    explanation = made.router.explain(Call("x" * 400, "m"))
    assert [row.target for row in explanation.rows] == ["b", "c", "a"]
    best, unpriced, away = explanation.rows
    assert best.in_flight == 1
    assert best.notes == ("meets the objectives",)
    assert best.prediction.p90_seconds > best.prediction.seconds
    assert best.prediction.cost == pytest.approx((100 * 1.0 + 100 * 4.0) / 1e6, rel=0.1)
    assert unpriced.prediction.cost is None
    assert any("unknown" in note for note in unpriced.notes)
    assert any("30 s more" in note for note in away.notes)
    lines = str(explanation).splitlines()
    assert lines[0] == "by cost, for 100 input and 101 output tokens"
    assert lines[1].split() == ["target", "latency", "nine", "in", "ten", "cost", "answered", "in", "flight", "score"]
    assert [line.split()[0] for line in lines[2:]] == ["b", "c", "a"]


def test_asking_changes_nothing(lab) -> None:
    """However often somebody asks, decisions and statistics stay what they are."""
    made = lab(prices=PRICES, optimize_for="latency", exploration=0.5)
    made.teach(a=1.0, b=2.0, c=3.0)
    before = made.router.stats()
    for _ in range(100):
        made.router.explain(Call("hi", "m"))
    assert made.router.stats() == before
    with pytest.raises(NoTarget):
        made.router.explain(Call("hi", "m", metadata={"route": {"only": ["x"]}}))


def test_equals_are_told(lab) -> None:
    """A target that is about as good as the best is marked, since it may as well be chosen."""
    made = lab("abc", optimize_for="latency")
    made.teach(times=30, a=1.0, b=1.1, c=2.0)
    notes = {row.target: row.notes for row in made.router.explain(Call("hi", "m")).rows}
    assert notes == {"a": (), "b": ("about as good as the best",), "c": ()}


def test_stats(lab) -> None:
    """What is known of each target, in figures."""
    made = lab("ab")
    made.answer("a", times=30, first=0.4, seconds=1.0)
    made.fail("a")
    assert made.router.stats().keys() == {"a"}
    stats = made.router.stats()["a"]
    assert isinstance(stats, TargetStats)
    assert (stats.answers, stats.failures, stats.in_flight, stats.away_seconds) == (30, 1, 0, 0.0)
    assert stats.first_chunk_seconds == pytest.approx(0.4, rel=0.05)
    assert stats.seconds_per_output_token == pytest.approx(0.006, rel=0.05)
    assert 0.0 < stats.success_rate < stats.usual_success_rate < 1.0


def test_a_decision_keeps_what_it_predicted(lab) -> None:
    """The latency a decision predicted is that of its moment, whatever is learned later."""
    made = lab("a")
    made.teach(a=1.0)
    decision = made.router.route(Call("hi", "m"))
    before = decision.predicted_latency_ms
    made.answer("a", times=20, first=5.0, seconds=10.0)
    assert decision.predicted_latency_ms == before == decision.predicted_seconds * 1000


@pytest.mark.parametrize("why", ["best", "near_equal", "two_choices", "probe"])
def test_the_reason_is_told_in_a_sentence(lab, why: str) -> None:
    """Each kind of decision says what it is by."""
    settings = {"power_of_two_above": 0} if why == "two_choices" else {"exploration": 0.5 if why == "probe" else 0.0}
    made = lab("ab", optimize_for="latency", **settings)
    made.teach(times=30, a=1.0, b=1.05 if why == "near_equal" else 3.0)
    decision = made.router.route(Call("hi", "m"))
    for _ in range(100):
        if decision.why != why:
            made.clock.advance(1.0)
            decision = made.router.route(Call("hi", "m"))
    assert decision.why == why
    assert "by latency" in decision.reasons[0]
