"""What is learned of a target whose answers come less than a hundredth of a second apart."""

from __future__ import annotations

from typing import Any

import pytest

from llmkit_plugins import Attempt, Call, Usage

CALL = Call("hi", "m")


def flood(
    made: Any,
    name: str,
    times: int,
    *,
    apart: float = 0.0005,
    seconds: float = 1.0,
    tokens: int = 101,
    whole: bool = False,
) -> None:
    """So many answers, half of their seconds until the first chunk, all under way before the first of them ends."""
    attempts = [Attempt(1, made[name], started=made.clock()) for _ in range(times)]
    for attempt in attempts:
        made.router.begin(attempt)
        attempt.outcome, attempt.usage = "ok", Usage(200, tokens)
    made.clock.advance(seconds)
    for attempt in attempts:
        made.clock.advance(apart)
        assert attempt.started is not None
        attempt.first_chunk = None if whole else made.clock() - seconds / 2
        attempt.started, attempt.finished = made.clock() - seconds, made.clock()
        made.router.record(attempt, CALL)


def known(lab: Any, apart: float, *, whole: bool) -> Any:
    """A target that took one second, then two, by answers so far apart, one at a time under way."""
    made = lab("ab", optimize_for="latency")
    made.answer("a", times=100, first=None if whole else 0.5)
    for _ in range(100):
        flood(made, "a", 1, seconds=2.0, whole=whole)
    for number in range(200):
        seconds, tokens = (1.8, 81) if number % 2 else (2.2, 121)
        attempt = Attempt(1, made["a"], started=made.clock())
        made.router.begin(attempt)
        made.clock.advance(apart)
        attempt.started, attempt.finished = made.clock() - seconds, made.clock()
        attempt.first_chunk = None if whole else attempt.started + 1.0
        attempt.outcome, attempt.usage = "ok", Usage(200, tokens)
        made.router.record(attempt, CALL)
    return made.router.stats()["a"]


def test_in_a_flood_as_much_is_learned_as_otherwise(lab) -> None:
    """Answers that are learned from together say what they would have said one by one."""
    together, one_by_one = known(lab, 0.0005, whole=False), known(lab, 0.02, whole=False)
    assert together.answers == one_by_one.answers == 400
    assert together.first_chunk_seconds == pytest.approx(one_by_one.first_chunk_seconds, rel=0.02)
    assert together.seconds_per_output_token == pytest.approx(one_by_one.seconds_per_output_token, rel=0.02)


def test_a_flood_of_whole_answers_teaches_how_long_they_take(lab) -> None:
    """As much as one by one; which part of them is the first token's, it teaches less."""
    together, one_by_one = known(lab, 0.0005, whole=True), known(lab, 0.02, whole=True)
    assert together.answers == one_by_one.answers == 400
    took = [each.first_chunk_seconds + 100 * each.seconds_per_output_token for each in (together, one_by_one)]
    assert took[0] == pytest.approx(took[1], rel=0.02)
    assert took[0] == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("apart", [0.0, 0.0005])
def test_a_change_shows_within_a_flood(lab, apart: float) -> None:
    """A target that suddenly takes twice as long is expected to take most of that, even if no time passes."""
    made = lab("ab", optimize_for="latency")
    flood(made, "a", 200, apart=apart)
    before = made.router.route(CALL, [made["a"]]).predicted_seconds
    flood(made, "a", 200, apart=apart, seconds=2.0)
    assert made.router.route(CALL, [made["a"]]).predicted_seconds == pytest.approx(2 * before, rel=0.2)


def test_whole_answers_and_streams_are_told_apart_in_a_flood(lab) -> None:
    """Where both come at once, what streams say of the first chunk is not spoilt by answers that do not say it."""
    made = lab("ab", optimize_for="latency")
    flood(made, "a", 100)
    for _ in range(100):
        flood(made, "a", 1)
        flood(made, "a", 1, whole=True)
        flood(made, "a", 3)
    stats = made.router.stats()["a"]
    assert stats.answers == 600
    assert stats.first_chunk_seconds == pytest.approx(0.5, rel=0.1)
    assert stats.seconds_per_output_token == pytest.approx(0.005, rel=0.1)


def test_a_failure_in_a_flood_is_seen_at_once(lab) -> None:
    """Three failures in a row turn the traffic away, whatever was added up before."""
    made = lab("ab", optimize_for="latency")
    flood(made, "b", 100, seconds=1.5)
    flood(made, "a", 100)
    assert made.shares(20)["a"] == 20
    for _ in range(3):
        made.fail("a")
    assert made.shares(20)["b"] == 20
    assert made.router.stats()["a"].answers == 100


def test_an_outlier_in_a_flood_does_not_spoil_it(lab) -> None:
    """One answer that took fifty times as long, between two others, hardly matters."""
    made = lab("ab", optimize_for="latency")
    flood(made, "a", 300)
    for seconds in (1.0, 50.0, 1.0):
        attempt, now = Attempt(1, made["a"]), made.clock()
        attempt.started, attempt.first_chunk, attempt.finished = now - seconds, now - seconds / 2, now
        attempt.outcome, attempt.usage = "ok", Usage(200, 101)
        made.router.record(attempt, CALL)
    assert made.router.stats()["a"].first_chunk_seconds == pytest.approx(0.5, rel=0.4)


def test_a_flood_teaches_how_long_answers_are(lab) -> None:
    """Not each of them does, but enough."""
    made = lab("ab", optimize_for="latency")
    flood(made, "a", 300)
    flood(made, "a", 2000, tokens=301)
    assert made.router.habits.of(CALL).output_tokens == pytest.approx(301, rel=0.3)
