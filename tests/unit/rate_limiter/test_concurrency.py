"""Permits: how many calls are under way at once."""

from __future__ import annotations

import pytest

from llmkit_plugins import ConfigError, RateLimited
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiter


@pytest.fixture
def limiter(clock) -> RateLimiter:
    """Two calls at once for each provider."""
    return RateLimiter([Limit(concurrency=2, per=("provider",), name="slots")], lease_seconds=60, clock=clock)


def test_no_more_than_the_permits(limiter):
    """The third call is refused, until one of the two is over; other providers are not concerned."""
    first, _ = limiter.acquire("p"), limiter.acquire("p")
    with pytest.raises(RateLimited) as caught:
        limiter.acquire("p")
    assert (caught.value.limit, caught.value.key) == ("slots", "p")
    assert limiter.acquire("q")
    first.release()
    assert limiter.acquire("p")


def test_a_permit_comes_back_once(limiter):
    """Released twice, and refunded after that, it is still one permit."""
    ticket = limiter.acquire("p")
    for _ in range(3):
        ticket.release()
        ticket.refund()
    assert limiter.acquire("p")
    assert limiter.acquire("p")
    with pytest.raises(RateLimited):
        limiter.acquire("p")


def test_time_alone_brings_no_permit_back_before_its_lease_ends(limiter, clock):
    """A call may take long; one that vanished gives its permit back when its lease has ended."""
    late = limiter.acquire("p")
    clock.advance(30)
    limiter.acquire("p")
    clock.advance(29)
    with pytest.raises(RateLimited):
        limiter.acquire("p")
    clock.advance(1)
    assert limiter.acquire("p")
    late.release()
    with pytest.raises(RateLimited):
        limiter.acquire("p")
    clock.advance(60)
    assert limiter.acquire("p")
    assert limiter.acquire("p")


def test_leases_that_change_meanwhile(limiter):
    """Who takes a permit holds no lock: a lease that begins while the oldest is looked for does not disturb."""

    class RacingOnce(dict):
        raced = False

        def __iter__(self):
            if not self.raced:
                self.raced = True
                raise RuntimeError("dictionary changed size during iteration")
            return super().__iter__()

    limiter._books.leases = RacingOnce()
    for _ in range(2):
        limiter.acquire("p")
    with pytest.raises(RateLimited):
        limiter.acquire("p")
    assert limiter._books.leases.raced
    assert len(limiter._books.leases) == 2


def test_interrupted_while_it_gives_back(limiter, clock, monkeypatch):
    """Where Ctrl-C comes while permits are given back, they are not lost: their lease goes on."""
    first, second = limiter.acquire("p"), limiter.acquire("p")

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(first.plan.levels[0].table), "shift", interrupt)
        with pytest.raises(KeyboardInterrupt):
            first.release()
    clock.advance(60)
    assert limiter.acquire("p")
    assert limiter.acquire("p")
    assert not second.held


def test_a_refusal_on_concurrency_burns_no_request(clock):
    """Where there is no permit, neither requests nor tokens are charged."""
    limits = [Limit(requests="2/min", per=("user",)), Limit(concurrency=1, per=("user",))]
    limiter = RateLimiter(limits, clock=clock)
    ticket = limiter.acquire(user="ann")
    for _ in range(5):
        with pytest.raises(RateLimited):
            limiter.acquire(user="ann")
    ticket.release()
    limiter.acquire(user="ann").release()
    with pytest.raises(RateLimited, match="requests"):
        limiter.acquire(user="ann")


def test_a_refusal_on_a_rate_takes_no_permit(clock):
    """Where the rate refuses, all permits are still there."""
    limits = [Limit(requests="1/min", per=("user",)), Limit(concurrency=2)]
    limiter = RateLimiter(limits, clock=clock)
    limiter.acquire(user="ann")
    for _ in range(5):
        with pytest.raises(RateLimited, match="requests"):
            limiter.acquire(user="ann")
    assert limiter.acquire(user="bob")


def test_the_wait_for_a_permit_is_guessed_by_how_long_they_are_held(limiter, clock):
    """With two permits held for eight seconds each, one comes free every four."""
    for _ in range(100):
        ticket = limiter.acquire("p")
        clock.advance(8)
        ticket.release()
    limiter.acquire("p")
    limiter.acquire("p")
    with pytest.raises(RateLimited) as caught:
        limiter.acquire("p")
    assert caught.value.retry_after == pytest.approx(4, rel=0.01)


def test_a_permit_needs_to_be_released(limiter):
    """The check that gives no ticket cannot be used where something has to be given back."""
    with pytest.raises(ConfigError, match="'slots' has to be released"):
        limiter.check_and_consume("p")
    assert limiter.check_and_consume()


def test_keys_without_calls_are_forgotten(clock):
    """A table of permits does not grow with the users that were there once."""
    limiter = RateLimiter([Limit(concurrency=1, per=("user",), name="slots")], clock=clock)
    for number in range(10_000):
        limiter.acquire(user=f"user-{number}").release()
    assert limiter.stats()["slots"].keys < 3_000


def test_with_releases(limiter):
    """The end of a with block gives the permit back, also where it ends with an error."""
    for _ in range(3):
        with pytest.raises(KeyError), limiter.acquire("p"), limiter.acquire("p"):
            raise KeyError
    with limiter.acquire("p") as ticket:
        assert ticket.held
