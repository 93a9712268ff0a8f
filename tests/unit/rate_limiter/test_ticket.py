"""What a ticket has taken is settled, given back, or kept."""

from __future__ import annotations

import pytest

from llmkit_plugins import Call, RateLimited, Target
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiter

TARGET = Target("fast", "openai", "gpt-4o", input_price=1.0, output_price=2.0)


@pytest.fixture
def limiter(clock) -> RateLimiter:
    """1000 tokens a minute and 10 requests for each user."""
    return RateLimiter([Limit(tokens="1000/min", per=("user",)), Limit(requests="10/min", per=("user",))], clock=clock)


def left(limiter: RateLimiter, user: str = "ann") -> int:
    """How many tokens *user* can still take (and takes)."""
    for tokens in range(1000, 0, -1):
        if limiter.check_and_consume(user=user, input_tokens=tokens):
            return tokens
    return 0


@pytest.mark.parametrize(("used", "rest"), [((100, 200), 700), ((0, 0), 1000), ((500, 500), 0)])
def test_what_was_used_is_charged_in_place_of_what_was_expected(limiter, used, rest):
    """Settled to less, the rest comes back; settled to more, the rest is charged."""
    limiter.acquire(user="ann", input_tokens=100, output_tokens=400).settle(*used)
    assert left(limiter) == rest


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), -1e9])
def test_use_that_cannot_be_is_not_known(clock, nonsense):
    """It stays as it was expected, teaches nothing, and leaves the limits what they were."""
    limits = [Limit(tokens="1000/min", per=("user",)), Limit(cost="1 USD/min", per=("tenant",))]
    limiter = RateLimiter(limits, clock=clock)
    limiter.acquire(user="ann", tenant="t", input_tokens=100, output_tokens=400, cost=0.5).settle(*[nonsense] * 3)
    assert left(limiter) == 500
    ticket = limiter.request(Call("hi", user="bob", tenant="t"))
    ticket.settle(*[nonsense] * 3)
    assert 0 < limiter.request(Call("hi", user="bob", tenant="t")).expected_tokens < 1000
    with pytest.raises(RateLimited):
        limiter.acquire(tenant="t", cost=0.6)
    assert limiter.acquire(tenant="t", cost=0.4)


def test_a_debt_is_paid_back_by_time(limiter, clock):
    """What was used beyond the limit is not forgotten: nothing is admitted until it is paid."""
    limiter.acquire(user="ann", input_tokens=100).settle(100, 1900)
    with pytest.raises(RateLimited) as caught:
        limiter.acquire(user="ann", input_tokens=100)
    assert caught.value.retry_after == pytest.approx(66)
    clock.advance(caught.value.retry_after)
    assert limiter.acquire(user="ann", input_tokens=100)


def test_a_debt_begins_now_where_the_bucket_was_full(limiter, clock):
    """A call that took so long that its estimate came back meanwhile still pays what it used beyond."""
    ticket = limiter.acquire(user="ann", input_tokens=100)
    clock.advance(3600)
    ticket.settle(100, 300)
    assert left(limiter) == 700


def test_unknown_usage_keeps_the_estimate(limiter):
    """An answer that does not say what it used is charged what was expected of it."""
    limiter.acquire(user="ann", input_tokens=100, output_tokens=400).settle()
    assert left(limiter) == 500


def test_what_is_known_of_a_stream_that_broke_off(limiter):
    """Of an abandoned stream the prompt is charged as expected, and the answer as far as it came."""
    limiter.acquire(user="ann", input_tokens=100, output_tokens=400).settle(output_tokens=30, complete=False)
    assert left(limiter) == 870


def test_several_attempts_add_up(limiter):
    """The first usage told replaces the estimate, further ones are added."""
    ticket = limiter.acquire(user="ann", input_tokens=500)
    ticket.settle(100, 50)
    ticket.settle(100, 50)
    ticket.settle(output_tokens=10)
    assert left(limiter) == 690


def test_a_refund_gives_back_everything_once(limiter):
    """A refunded call cost neither tokens nor a request, however often it is refunded."""
    limiter.acquire(user="ann", input_tokens=300)
    for _ in range(20):
        ticket = limiter.acquire(user="ann", input_tokens=400)
        ticket.refund()
        ticket.refund()
        ticket.release()
    assert left(limiter) == 700


def test_a_refund_after_the_usage_gives_back_the_usage(limiter):
    """What is given back is what was charged in the end."""
    limiter.acquire(user="ann", input_tokens=300)
    ticket = limiter.acquire(user="ann", input_tokens=200)
    ticket.settle(50, 50)
    ticket.refund()
    assert left(limiter) == 700


def test_a_refund_never_overfills(limiter, clock):
    """What came back by time in the meantime does not come back twice."""
    ticket = limiter.acquire(user="ann", input_tokens=500)
    clock.advance(3600)
    ticket.refund()
    assert left(limiter) == 1000
    assert left(limiter) == 0


def test_a_follower_is_one_request_and_no_tokens(limiter):
    """Tokens settled to nothing leave the request charged."""
    for _ in range(10):
        limiter.acquire(user="ann", input_tokens=500).settle(0, 0, 0.0, complete=False)
    with pytest.raises(RateLimited, match="requests"):
        limiter.acquire(user="ann")


def test_the_estimate_of_a_call(clock):
    """A call is expected to take its prompt's tokens and a usual answer, or max_tokens where that is less."""
    limiter = RateLimiter([Limit(tokens="10_000/min", per=("user",))], clock=clock)
    messages = [{"role": "user", "content": "x" * 4000}]
    ticket = limiter.request(Call(messages=messages, params={"max_tokens": 50}, user="ann"))
    assert ticket.amounts == pytest.approx(
        {"input_tokens": 1001, "output_tokens": 50, "tokens": 1051, "cost": 0}, abs=1
    )
    assert limiter.request(Call(messages=messages, user="ann")).amounts["output_tokens"] == pytest.approx(256)


def test_estimates_learn_from_usage(clock):
    """After some answers of ten tokens to prompts of two characters a token, that is what is expected."""
    limiter = RateLimiter([Limit(tokens="10_000_000/min", per=("model",))], clock=clock)
    call = Call(messages="x" * 4000)
    for _ in range(200):
        limiter.attempt(call, TARGET).settle(2000, 10, 0.004)
    expected = limiter.attempt(Call(messages="x" * 1000), TARGET).amounts
    assert expected["input_tokens"] == pytest.approx(500, rel=0.05)
    assert expected["output_tokens"] == pytest.approx(10, rel=0.2)


def test_nothing_is_learned_from_what_broke_off(clock):
    """An abandoned stream does not make answers look short."""
    limiter = RateLimiter([Limit(tokens="10_000_000/min", per=("model",))], clock=clock)
    for _ in range(50):
        limiter.attempt(Call(messages="x" * 100), TARGET).settle(25, 1, complete=False)
    assert limiter.attempt(Call(), TARGET).amounts["output_tokens"] == pytest.approx(256)


def test_costs_are_expected_by_the_prices_of_the_target(clock):
    """Where the target has prices, dollars are reserved by them."""
    limiter = RateLimiter([Limit(cost="5 USD/day", per=("provider",))], clock=clock)
    call = Call(messages="x" * 4_000_000, params={"max_completion_tokens": 250})
    assert limiter.attempt(call, TARGET).amounts["cost"] == pytest.approx(1.0005, rel=0.01)


def test_costs_of_a_user_are_expected_by_what_calls_have_cost(clock):
    """Before a target is chosen, dollars are expected at the price of the tokens so far; before that, none."""
    limiter = RateLimiter([Limit(cost="5 USD/day", per=("user",))], clock=clock)
    call = Call(messages="x" * 4000, params={"max_tokens": 1000}, user="ann", model="m")
    ticket = limiter.request(call)
    assert ticket.amounts["cost"] == 0
    ticket.settle(1000, 1000, 0.02)
    assert limiter.request(call).amounts["cost"] == pytest.approx(0.02, rel=0.05)


def test_five_calls_at_once_cannot_spend_more_than_the_limit(clock):
    """Against 100 tokens a minute one call that uses 132 is admitted, and the other four wait for its debt."""
    limiter = RateLimiter([Limit(tokens="100/min", per=("user",))], clock=clock)
    admitted = []
    for _ in range(5):
        try:
            admitted.append(limiter.request(Call(messages="x" * 400, user="ann")))
        except RateLimited as over:
            assert over.retry_after == pytest.approx(60)
    assert len(admitted) == 1
    admitted[0].settle(100, 32)
    with pytest.raises(RateLimited) as caught:
        limiter.request(Call(messages="x", params={"max_tokens": 20}, user="ann"))
    assert caught.value.retry_after == pytest.approx((32 + 20.25) * 0.6, rel=0.01)


def test_an_estimate_beyond_the_burst_takes_a_full_bucket(clock):
    """A guess is no reason to refuse a call for ever: it needs the whole burst, and the rest is settled as a debt."""
    limiter = RateLimiter([Limit(tokens="100/min", per=("user",))], clock=clock)
    call = Call(messages="x" * 100_000, user="ann")
    ticket = limiter.request(call)
    ticket.settle(25_000, 0)
    with pytest.raises(RateLimited) as caught:
        limiter.request(call)
    assert caught.value.retry_after == pytest.approx(25_000 * 0.6)
