"""The table of keys."""

from __future__ import annotations

import threading

import pytest

from llmkit_plugins import ConfigError
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiter
from llmkit_plugins.plugins.rate_limiter.keyed import OTHERS, Table
from llmkit_plugins.plugins.rate_limiter.rate import FULL


def table(max_keys: int = 1_000_000) -> Table:
    return Table(max_keys, threading.RLock())


def test_a_new_key_is_full():
    """A key that is not there has the state of a full bucket, and asking does not make it."""
    keys = table()
    assert keys.state("a") == FULL
    assert len(keys) == 0


def test_a_state_is_charged_from_now_on():
    """Charging an idle key begins now; charging it again adds up; giving back goes below."""
    keys = table()
    keys.shift("a", 5.0, 100.0)
    keys.shift("a", 2.0, 101.0)
    assert keys.state("a") == 107.0
    keys.shift("a", -7.0, 101.0)
    assert keys.state("a") == 100.0


def test_a_million_idle_users_are_forgotten():
    """Keys that came once and are full again leave no trace."""
    keys = table()
    for number in range(20_000):
        now = float(number)
        keys.shift(f"user-{number}", 1.0, now)
    assert len(keys) < 3_000


def test_what_is_in_use_is_never_forgotten():
    """A key in debt survives any number of others, and keeps its state to the last bit."""
    keys = table()
    keys.shift("debtor", 1e9, 0.0)
    for number in range(20_000):
        keys.shift(f"user-{number}", 0.5, float(number))
    assert keys.state("debtor") == 1e9


def test_an_old_key_is_young_again_when_it_is_used():
    """A key that changed generation is found, charged once, and counted once."""
    keys = table(max_keys=8)
    for number in range(8):
        keys.shift(f"user-{number}", 100.0, 0.0)
    assert keys.adopt("new", 0.0) == OTHERS
    keys.shift("user-0", 1.0, 0.0)
    assert keys.state("user-0") == 101.0
    assert {keys.state(f"user-{number}") for number in range(1, 8)} == {100.0}


def test_there_are_never_more_keys_than_allowed():
    """Where all are in use, new ones share one state, until others are full again."""
    keys = table(max_keys=100)
    for number in range(1000):
        keys.shift(f"user-{number}", 1000.0, 0.0)
        assert len(keys) <= 101
    assert keys.state(OTHERS) == 900 * 1000.0
    for number in range(1000):
        keys.shift(f"late-{number}", 0.5, 2000.0 + number)
    assert keys.adopt("another", 10_000.0) == "another"


def test_those_without_room_are_limited_together(clock):
    """A flood of users beyond the bound is limited as if it were one user, and known users are not hurt."""
    limiter = RateLimiter([Limit(requests="10/d", per=("user",))], max_keys=50, clock=clock)
    for number in range(50):
        assert limiter.check_and_consume(user=f"user-{number}")
    assert sum(limiter.check_and_consume(user=f"flood-{number}") for number in range(100)) == 10
    assert all(limiter.check_and_consume(user=f"user-{number}") for number in range(50))


def test_what_a_forgotten_key_gives_back_is_not_that_of_others():
    """A key that is full again has nothing to give back, least of all to those that share a state."""
    keys = table(max_keys=4)
    for number in range(5):
        keys.shift(f"user-{number}", 1000.0, 0.0)
    before = keys.state(OTHERS)
    keys.shift("long-gone", -500.0, 10.0)
    assert keys.state(OTHERS) == before
    assert len(keys) == 5


@pytest.mark.parametrize("max_keys", [0, -1, 1.5, True])
def test_an_impossible_bound_is_an_error(max_keys):
    """The bound is a whole number."""
    with pytest.raises(ConfigError, match="max_keys"):
        table(max_keys)
