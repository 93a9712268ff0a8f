"""One bucket, by itself."""

from __future__ import annotations

import pytest

from llmkit_plugins import ConfigError
from llmkit_plugins.plugins.rate_limiter import TokenBucket


def test_a_burst_then_the_rate(clock):
    """After its burst a bucket admits one per interval, and nothing a moment earlier."""
    bucket = TokenBucket(10, 5, clock=clock)
    assert [bucket.check_and_consume() for _ in range(6)] == [True] * 5 + [False]
    clock.advance(0.09)
    assert not bucket.check_and_consume()
    clock.advance(0.01)
    assert bucket.check_and_consume()
    assert not bucket.check_and_consume()


def test_a_rest_fills_it_no_further_than_the_burst(clock):
    """A long rest is worth one burst."""
    bucket = TokenBucket(10, 5, clock=clock)
    clock.advance(3600)
    assert sum(bucket.check_and_consume() for _ in range(20)) == 5


def test_the_period_may_be_any(clock):
    """Three per minute are one every twenty seconds."""
    bucket = TokenBucket(3, 1, per=60, clock=clock)
    assert bucket.check_and_consume()
    assert bucket.retry_after() == pytest.approx(20)
    assert (bucket.rate, bucket.burst, bucket.per) == (3, 1, 60)


def test_without_a_burst_it_is_one_period(clock):
    """Where no burst is given it is one period's worth, and one at least."""
    assert TokenBucket(7).burst == 7
    assert TokenBucket(0.25, per=60).burst == 1


def test_costs_may_be_fractions(clock):
    """Half a token costs half of one."""
    bucket = TokenBucket(1, 1, clock=clock)
    assert [bucket.check_and_consume(0.25) for _ in range(5)] == [True] * 4 + [False]
    assert bucket.retry_after(0.25) == pytest.approx(0.25)


def test_a_cost_of_nothing_is_refused_only_in_debt(clock):
    """A cost of 0 takes nothing; it is admitted from an empty bucket, but not from one in debt."""
    bucket = TokenBucket(1, 1, clock=clock)
    assert bucket.check_and_consume()
    assert bucket.check_and_consume(0)
    bucket.reserve()
    assert not bucket.check_and_consume(0)


@pytest.mark.parametrize("cost", [-1, -1e-9, 5.5, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("ask", ["check_and_consume", "reserve", "retry_after", "refund"])
def test_impossible_costs_are_errors(clock, ask, cost):
    """A negative cost, one that is no number, and one beyond the burst raise, on an idle bucket and on a busy one."""
    bucket = TokenBucket(1, 5, clock=clock)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"cost: .*from 0 to the burst of 5"):
            getattr(bucket, ask)(cost)
        assert bucket.available_tokens() in (5, 1)
        bucket.check_and_consume(4)


def test_a_cost_beyond_the_burst_can_never_be_admitted(clock):
    """It is not told to try again later."""
    with pytest.raises(ConfigError, match="a cost of 6 can never be admitted"):
        TokenBucket(1, 5, clock=clock).retry_after(6)


def test_what_is_available(clock):
    """Available tokens fall with use and rise with time, and a debt is negative."""
    bucket = TokenBucket(2, 4, clock=clock)
    assert bucket.available_tokens() == 4
    assert bucket.check_and_consume(3)
    assert bucket.available_tokens() == 1
    clock.advance(0.75)
    assert bucket.available_tokens() == 2.5
    bucket.reserve(4)
    assert bucket.available_tokens() == -1.5
    clock.advance(100)
    assert bucket.available_tokens() == 4


def test_is_limited_takes_nothing(clock):
    """Asking whether it is limited costs nothing."""
    bucket = TokenBucket(1, 1, clock=clock)
    assert [bucket.is_limited() for _ in range(3)] == [False] * 3
    assert bucket.check_and_consume()
    assert bucket.is_limited()
    clock.advance(1)
    assert not bucket.is_limited()


def test_a_bucket_of_less_than_one_is_limited_when_it_is_not_full(clock):
    """A budget of half a dollar is limited by half a dollar, not by one."""
    bucket = TokenBucket(0.5, 0.5, clock=clock)
    assert not bucket.is_limited()
    assert bucket.check_and_consume(0.1)
    assert bucket.is_limited()


def test_reservations_line_up(clock):
    """Each reservation waits one interval longer than the one before."""
    bucket = TokenBucket(1, 2, clock=clock)
    assert [bucket.reserve() for _ in range(4)] == [0.0, 0.0, pytest.approx(1), pytest.approx(2)]
    assert bucket.retry_after() == pytest.approx(3)
    clock.advance(2)
    assert not bucket.check_and_consume()
    assert bucket.reserve() == pytest.approx(1)


def test_what_is_refunded_can_be_taken_again(clock):
    """A refund gives back what was taken, and never fills the bucket beyond its burst."""
    bucket = TokenBucket(1, 3, clock=clock)
    assert bucket.check_and_consume(3)
    bucket.refund(2)
    assert bucket.available_tokens() == 2
    bucket.refund(3)
    bucket.refund(3)
    assert bucket.available_tokens() == 3
    assert [bucket.check_and_consume() for _ in range(4)] == [True] * 3 + [False]


def test_reset_fills_it(clock):
    """A reset forgets every debt."""
    bucket = TokenBucket(1, 2, clock=clock)
    for _ in range(10):
        bucket.reserve()
    bucket.reset()
    assert bucket.available_tokens() == 2


def test_a_clock_below_zero_is_a_clock():
    """Only differences of the clock count."""
    bucket = TokenBucket(1, 1, clock=lambda: -1e6)
    assert [bucket.check_and_consume() for _ in range(2)] == [True, False]


def test_presets(clock):
    """A provider gets 100 a second, a model 10, a user 1."""
    presets = [TokenBucket.per_provider(clock), TokenBucket.per_model(clock), TokenBucket.per_user(clock)]
    assert [(bucket.rate, bucket.burst) for bucket in presets] == [(100, 100), (10, 10), (1, 1)]


def test_unlimited_is_unlimited(clock):
    """A bucket without a limit admits everything that is a number."""
    bucket = TokenBucket.unlimited(clock)
    assert all(bucket.check_and_consume(cost) for cost in (1, 1e300, 0, 1))
    assert bucket.available_tokens() == float("inf")
    assert bucket.reserve(1e9) == bucket.retry_after(1e9) == 0.0
    assert not bucket.is_limited()
    with pytest.raises(ConfigError):
        bucket.check_and_consume(float("inf"))
    assert bucket.check_and_consume()


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": -1}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": "10"}, "rate"),
        ({"rate": True}, "rate"),
        ({"rate": 1, "burst": 0}, "burst"),
        ({"rate": 1, "per": 0}, "per"),
        ({"rate": 1, "per": float("inf")}, "per"),
    ],
)
def test_impossible_settings_are_errors(arguments, key):
    """Whatever is not above 0 is refused by name."""
    with pytest.raises(ConfigError) as caught:
        TokenBucket(**arguments)
    assert caught.value.key == key


def test_it_says_what_it_is(clock):
    """Its repr has the rate and what is left."""
    assert repr(TokenBucket(10, 5, clock=clock)) == "<TokenBucket Rate(10, burst=5, per=1), 5 available>"
