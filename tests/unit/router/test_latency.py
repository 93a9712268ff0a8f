"""What is learned of how long a target takes."""

from __future__ import annotations

from math import exp
from random import Random

import pytest

from llmkit_plugins.plugins.router.latency import Latency

HALF_LIFE = 10.0


class Target:
    """Answers one call a second, and what is learned of it."""

    def __init__(self, first: float = 0.5, token: float = 0.02) -> None:
        self.now = 100.0
        self.latency = Latency(first, token, HALF_LIFE, self.now)

    def answer(self, first: float, token: float, times: int = 1, crowd: int = 0, tokens: int = 101) -> None:
        for _ in range(times):
            self.now += 1.0
            self.latency.learn(first, first + (tokens - 1) * token, tokens, tokens, crowd, self.now)


def test_before_the_first_answer_the_prior_counts() -> None:
    """A target never tried is expected to be what the settings say."""
    assert Latency(0.7, 0.03, HALF_LIFE, 0.0).first_now == 0.7
    assert Latency(0.7, 0.03, HALF_LIFE, 0.0).token_now == 0.03


@pytest.mark.parametrize(("first", "token"), [(2.0, 0.1), (0.01, 0.001)])
def test_few_answers_outweigh_the_prior(first: float, token: float) -> None:
    """After ten answers both means are within a tenth of what they really are."""
    target = Target()
    target.answer(first, token, times=10)
    assert target.latency.first == pytest.approx(first, rel=0.1)
    assert target.latency.token == pytest.approx(token, rel=0.1)


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_a_change_shows_within_twenty_answers(factor: float) -> None:
    """A level that jumped is followed most of the way within twenty answers, up or down."""
    target = Target()
    target.answer(1.0, 0.01, times=100)
    target.answer(factor, 0.01 * factor, times=20)
    assert target.latency.first == pytest.approx(factor, rel=0.5)
    assert target.latency.token == pytest.approx(0.01 * factor, rel=0.5)


def test_it_rises_as_fast_as_it_falls() -> None:
    """After the same number of slower answers it has risen by more, relatively, than it falls after faster ones."""
    up, down = Target(), Target()
    for target, factor in ((up, 2.0), (down, 0.5)):
        target.answer(1.0, 0.01, times=50)
        target.answer(factor, 0.01, times=4)
    assert up.latency.first > 1.0 / down.latency.first


def test_one_outlier_does_not_spoil_it() -> None:
    """An answer that took a thousand times as long does not even double the means."""
    target = Target()
    target.answer(1.0, 0.01, times=100)
    target.answer(1000.0, 10.0)
    assert target.latency.first < 2.0
    assert target.latency.token < 0.02


def test_after_a_pause_one_answer_says_more() -> None:
    """The longer there was no answer, the more the next one counts."""
    moved = []
    for pause in (0.0, 10.0, 100.0):
        target = Target()
        target.answer(1.0, 0.01, times=50)
        target.now += pause
        target.answer(2.0, 0.01)
        moved.append(target.latency.first)
    assert moved == sorted(moved)
    assert moved[1] > 1.5


def test_after_a_pause_a_fast_answer_is_believed() -> None:
    """A target that was twenty times too slow, and answers as fast as ever after half a minute, is fast."""
    target = Target()
    target.answer(0.5, 0.01, times=100)
    target.answer(10.0, 0.2, times=40)
    assert target.latency.first > 8.0
    target.now += 30.0
    target.answer(0.5, 0.01)
    assert target.latency.first < 0.6


def test_crowding_is_learned() -> None:
    """What takes three times as long beside many is expected to, beside as many, and alone is not."""
    target = Target()
    for _ in range(300):
        target.answer(0.5, 0.01, crowd=0)
        target.answer(1.5, 0.01, crowd=3)
    target.latency.beside(0)
    assert target.latency.first_now == pytest.approx(0.5, rel=0.2)
    target.latency.beside(5)
    assert target.latency.first_now == pytest.approx(1.5, rel=0.2)


def test_of_more_calls_than_were_ever_seen_twice_as_many_take_twice_as_long() -> None:
    """Nobody knows what a target bears before it was tried, so a herd does not follow one good reading."""
    target = Target()
    target.answer(0.5, 0.01, times=50, crowd=2)
    target.latency.beside(3)
    known = target.latency.first_now + target.latency.token_now
    seen = []
    for in_flight in (7, 15, 31):
        target.latency.beside(in_flight)
        seen.append((target.latency.first_now + target.latency.token_now) / known)
    assert seen == pytest.approx([2.0, 4.0, 8.0])


def test_a_target_that_bears_crowding_is_not_punished_for_it() -> None:
    """What is as fast beside a hundred as alone is expected to be."""
    target = Target()
    for crowd in range(8):
        target.answer(0.5, 0.01, times=20, crowd=crowd)
    target.latency.beside(100)
    assert target.latency.first_now == pytest.approx(0.5, rel=0.05)


def test_crowding_never_helps() -> None:
    """Whatever was learned in whatever order, more calls in flight never mean an earlier first chunk."""
    random, target = Random(3), Target()
    for _ in range(2000):
        target.answer(0.5 * exp(random.gauss(0.0, 1.0)), 0.01, crowd=random.randrange(6))
    seconds = []
    for in_flight in range(64):
        target.latency.beside(in_flight)
        seconds.append(target.latency.first_now)
    assert seconds == sorted(seconds)


def test_long_prompts_are_expected_to_begin_later() -> None:
    """Where twice the prompt takes twice as long to begin, the share of it that grows is learned to be large."""
    target, flat = Target(), Target()
    for each, grows in ((target, True), (flat, False)):
        for number in range(400):
            prompt = (number % 5 - 2) / 2  # from no prompt to twice the usual
            each.now += 1.0
            first = 0.5 * (1.0 + 0.8 * prompt) if grows else 0.5
            each.latency.learn(first, first + 1.0, 101, 101, 0, each.now, prompt)
    assert target.latency.prompt_share == pytest.approx(0.8, abs=0.1)
    assert flat.latency.prompt_share < 0.05
    assert target.latency.first == pytest.approx(0.5, rel=0.1)


def test_what_can_be_hoped_for_is_what_it_was_in_the_long_run() -> None:
    """A brown-out of minutes does not make anybody forget how fast the target was; one of hours does."""
    target = Target()
    target.answer(0.5, 0.01, times=300)
    target.answer(5.0, 0.1, times=60)
    assert target.latency.first + 100 * target.latency.token == pytest.approx(15.0, rel=0.1)
    assert 1.5 <= target.latency.hoped_for(100) < 3.0
    target.answer(5.0, 0.1, times=5000)
    assert target.latency.hoped_for(100) == pytest.approx(15.0, rel=0.1)


def test_the_spread_is_that_of_the_logarithm() -> None:
    """Answers whose logarithm has a standard deviation of 0.5 have that variance."""
    random, target = Random(5), Target()
    seen = []
    for _ in range(4000):
        factor = exp(random.gauss(0.0, 0.5))
        target.answer(0.5 * factor, 0.01 * factor)
        seen.append(target.latency.variance)
    assert sum(seen[1000:]) / len(seen[1000:]) == pytest.approx(0.25, rel=0.3)
