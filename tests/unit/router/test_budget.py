"""How many failovers a kit may make."""

from __future__ import annotations

import pytest

from llmkit_plugins.plugins.router.budget import FailoverBudget


def spent(budget: FailoverBudget, now: float, wanted: int) -> int:
    return sum([budget.spend(now) for _ in range(wanted)])


def test_a_floor_is_always_there() -> None:
    """Without calls to take a share of, so many failovers are allowed and no more."""
    assert spent(FailoverBudget(0.2, 10, 0.0), 1.0, 100) == 10


def test_a_share_of_the_calls_besides() -> None:
    """Of five hundred calls a fifth may fail over, and the floor."""
    budget = FailoverBudget(0.2, 10, 0.0)
    for _ in range(500):
        budget.called(1.0)
    assert spent(budget, 2.0, 1000) == 110


def test_what_was_spent_is_forgotten() -> None:
    """Twenty seconds later the floor is there again."""
    budget = FailoverBudget(0.0, 10, 0.0)
    assert spent(budget, 1.0, 100) == 10
    assert spent(budget, 12.0, 100) == 0
    assert spent(budget, 23.0, 100) == 10


def test_calls_of_long_ago_are_no_budget() -> None:
    """What was called before a quiet minute does not count."""
    budget = FailoverBudget(0.5, 1, 0.0)
    for _ in range(1000):
        budget.called(1.0)
    assert spent(budget, 61.0, 1000) == 1


@pytest.mark.parametrize("rate", [2, 50])
def test_over_an_outage_failovers_stay_a_share_of_calls(rate: int) -> None:
    """In ten minutes in which every call wants to fail over, a fifth may, and a floor for each ten seconds."""
    budget, calls, failovers = FailoverBudget(0.2, 10, 0.0), 0, 0
    for tick in range(600 * rate):
        now = tick / rate
        budget.called(now)
        calls += 1
        failovers += budget.spend(now)
    assert 0.2 * calls * 0.9 <= failovers <= 0.2 * calls + 10 * 61
