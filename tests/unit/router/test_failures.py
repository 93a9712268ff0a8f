"""What is learned of how often a target fails."""

from __future__ import annotations

import pytest

from llmkit_plugins.plugins.router.failures import Failures

HALF_LIFE = 10.0


class Target:
    """Answers or fails one call a second."""

    def __init__(self) -> None:
        self.now = 100.0
        self.failures = Failures(HALF_LIFE, self.now)

    def answer(self, times: int = 1) -> float:
        for _ in range(times):
            self.now += 1.0
            self.failures.answered(1, self.now)
        return self.failures.success

    def fail(self, times: int = 1) -> float:
        for _ in range(times):
            self.now += 1.0
            self.failures.failed(self.now)
        return self.failures.success


def test_one_failure_among_many_answers_says_little() -> None:
    """A target that answered two hundred times and then failed once is still expected to answer."""
    target = Target()
    assert target.answer(200) > 0.99
    assert target.fail() > 0.5


def test_a_few_in_a_row_say_much() -> None:
    """After three failures in a row nearly every attempt is expected to fail."""
    target = Target()
    target.answer(200)
    assert target.fail(3) < 0.25


def test_answers_take_it_back() -> None:
    """Five answers after a brown-out make a target nearly as good as before."""
    target = Target()
    before = target.answer(200)
    target.fail(10)
    assert target.answer(5) > before - 0.05


def test_time_takes_it_back() -> None:
    """The longer ago the failures were, the more one answer takes back."""
    successes = []
    for pause in (0.0, 10.0, 30.0):
        target = Target()
        target.answer(200)
        target.fail(5)
        target.now += pause
        successes.append(target.answer())
    assert successes == sorted(successes)
    assert successes[0] < successes[-1]


@pytest.mark.parametrize("one_in", [10, 50, 200])
def test_the_usual_rate_is_what_it_really_is(one_in: int) -> None:
    """Where one in so many attempts fails, that is what is expected in the long run."""
    target = Target()
    for number in range(4000):
        target.answer() if number % one_in else target.fail()
    assert target.failures.usual_rate == pytest.approx(1 / one_in, rel=0.5)


def test_a_brown_out_is_not_the_usual() -> None:
    """Fifty failures in a row do not make a target one that usually fails."""
    target = Target()
    target.answer(1000)
    target.fail(50)
    assert target.failures.usual_rate < 0.02


def test_answers_need_not_be_told_one_by_one() -> None:
    """Sixteen answers told at once count as sixteen told one by one."""
    together, one_by_one = Target(), Target()
    one_by_one.answer(16)
    together.now = one_by_one.now
    together.failures.answered(16, together.now)
    assert together.failures.usual_rate == pytest.approx(one_by_one.failures.usual_rate, rel=0.05)
