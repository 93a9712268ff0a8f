"""Limits learned from providers."""

from __future__ import annotations

import pytest

from llmkit_plugins import Call, RateLimited, Target
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiter
from llmkit_plugins.plugins.rate_limiter.adaptive import MAX_HOLD_SECONDS, Paces
from llmkit_plugins.plugins.rate_limiter.aimd import MIN_PACE
from llmkit_plugins.plugins.rate_limiter.headers import said_of

TARGET = Target("fast", "openai", "gpt-4o")
OTHER = Target("slow", "openai", "gpt-4")


@pytest.fixture
def limiter(clock) -> RateLimiter:
    """Without limits of its own."""
    return RateLimiter([], clock=clock)


def admitted(limiter: RateLimiter, target: Target = TARGET, most: int = 1000, **call) -> int:
    """How many attempts are admitted in a row."""
    for number in range(most):
        try:
            limiter.attempt(Call(**call), target)
        except RateLimited as over:
            assert over.limit == "the provider's own limit"
            assert over.key == target.name
            return number
    return most


def requests(left: int, limit: int, reset: str) -> dict[str, str]:
    names = ("remaining", "limit", "reset")
    values = (left, limit, reset)
    return {f"x-ratelimit-{name}-requests": str(value) for name, value in zip(names, values, strict=True)}


def test_nobody_is_held_before_a_provider_says_something(limiter):
    """A target that has said nothing is not limited."""
    assert admitted(limiter) == 1000


def test_retry_after_is_kept(limiter, clock):
    """Until the time a provider asked for has passed nothing is sent to that target; others are not concerned."""
    limiter.attempt(Call(), TARGET).answered(refused=True, retry_after=20)
    with pytest.raises(RateLimited) as caught:
        limiter.attempt(Call(), TARGET)
    assert caught.value.retry_after == pytest.approx(20)
    assert limiter.outlook(Call(), TARGET).retry_after == pytest.approx(20)
    assert limiter.outlook(Call(), OTHER) is None
    limiter.attempt(Call(), OTHER).answered(retry_after=1)
    clock.advance(20)
    assert limiter.attempt(Call(), TARGET)


def test_the_longest_of_several_is_kept(limiter, clock):
    """A shorter wait told later does not end a longer one; and none is believed for ever."""
    first, second, third = (limiter.attempt(Call(), TARGET) for _ in range(3))
    first.answered(retry_after=20)
    second.answered(retry_after=5)
    assert limiter.outlook(Call(), TARGET).retry_after == pytest.approx(20)
    third.answered(retry_after=1e9)
    assert limiter.outlook(Call(), TARGET).retry_after == pytest.approx(MAX_HOLD_SECONDS)


def test_no_more_is_sent_than_the_provider_says_is_left(limiter, clock):
    """What is left, and what comes back until the reset, is what is sent."""
    limiter.attempt(Call(), TARGET).answered(requests(5, 60, "55s"))
    assert admitted(limiter) == 5
    clock.advance(1)
    assert admitted(limiter) == 1
    clock.advance(54 + 5)
    assert admitted(limiter) == 59


def test_a_limit_that_is_raised_is_believed(limiter, clock):
    """A provider that says another limit than before is kept to that one."""
    limiter.attempt(Call(), TARGET).answered(requests(0, 60, "60s"))
    clock.advance(2)
    limiter.attempt(Call(), TARGET).answered(requests(599, 600, "0.1s"))
    assert admitted(limiter) == 599
    clock.advance(1)
    assert admitted(limiter) == 10


def test_what_was_sent_meanwhile_is_counted(limiter):
    """Requests sent after the one that is answered are not yet in what the provider says is left."""
    first = limiter.attempt(Call(), TARGET)
    for _ in range(3):
        limiter.attempt(Call(), TARGET)
    first.answered(requests(5, 60, "55s"))
    assert admitted(limiter) == 2


def test_a_provider_may_say_otherwise(limiter):
    """A later answer with more left widens what an earlier one narrowed; one that comes late changes nothing."""
    first, second = limiter.attempt(Call(), TARGET), limiter.attempt(Call(), TARGET)
    second.answered(requests(20, 60, "40s"), at=1000.0)
    first.answered(requests(1, 60, "59s"), at=999.0)
    assert admitted(limiter) == 20
    third = Paces(lambda: 0.0)["x"]
    sent = third.send(0)
    third.answered(sent, requests(0, 60, "60s"), 0.0, refused=False, retry_after=None)
    assert third.wait(0) == pytest.approx(1)
    third.answered(third.send(0), requests(60, 60, "0s"), 1.0, refused=False, retry_after=None)
    assert third.wait(0) == 0


@pytest.mark.parametrize(("given_back", "room"), [(False, 1), (True, 2)])
def test_tokens_that_were_sent_meanwhile_are_counted(limiter, given_back, room):
    """They are not yet in what the provider says is left either; those that were not sent after all are."""
    names = ("remaining", "limit", "reset")
    said = {f"x-ratelimit-{n}-tokens": v for n, v in zip(names, ("1000", "10000", "9m0s"), strict=True)}
    call = {"messages": "x" * 1600, "params": {"max_tokens": 50}}
    limiter.attempt(Call(**call), TARGET).answered(said)
    first, second = (limiter.attempt(Call(**call), TARGET) for _ in range(2))
    if given_back:
        second.refund()
    first.answered(said)
    assert admitted(limiter, **call) == room


def test_tokens_are_kept_too(limiter):
    """Where a provider says how many tokens are left, prompts are counted against them."""
    headers = {
        "x-ratelimit-remaining-tokens": "1000",
        "x-ratelimit-limit-tokens": "10000",
        "x-ratelimit-reset-tokens": "9m0s",
    }
    limiter.attempt(Call(), TARGET).answered(headers)
    call = {"messages": "x" * 1600, "params": {"max_tokens": 50}}
    assert admitted(limiter, **call) == 2


def test_a_prompt_beyond_all_a_provider_has_is_its_own_to_refuse(limiter):
    """What exceeds the provider's whole limit needs a full bucket, and is not held for ever."""
    headers = {
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-reset-tokens": "6s",
    }
    limiter.attempt(Call(), TARGET).answered(headers)
    assert limiter.outlook(Call(messages="x" * 100_000), TARGET).retry_after == pytest.approx(6)


def test_without_a_named_limit_nothing_left_means_wait_until_the_reset(limiter):
    """Where only what is left and the reset are told, an empty bucket is left alone until then."""
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30"}
    limiter.attempt(Call(), TARGET).answered(headers)
    assert limiter.outlook(Call(), TARGET).retry_after == pytest.approx(30)


def test_without_a_named_limit_the_most_that_was_ever_left_is_it(limiter):
    """What remained of a full bucket is its size."""
    for left, reset in (("10", "0"), ("8", "2"), ("5", "5")):
        headers = {"x-ratelimit-remaining-requests": left, "x-ratelimit-reset-requests": reset}
        limiter.attempt(Call(), TARGET).answered(headers)
    assert admitted(limiter) == 5


def test_a_refused_attempt_that_was_never_sent_gives_its_place_back(limiter):
    """What is refunded was not sent, and is not counted at the provider."""
    limiter.attempt(Call(), TARGET).answered(requests(2, 60, "58s"))
    for _ in range(10):
        ticket = limiter.attempt(Call(), TARGET)
        ticket.refund()
        ticket.refund()
    assert admitted(limiter) == 2


def flow(limiter: RateLimiter, clock, per_second: float, seconds: float) -> int:
    """How many of a steady flow of attempts are admitted."""
    sent = 0
    for _ in range(round(per_second * seconds)):
        clock.advance(1 / per_second)
        sent += limiter.outlook(Call(), TARGET) is None and limiter.attempt(Call(), TARGET) is not None
    return sent


def test_a_refusal_halves_the_pace_and_it_recovers(limiter, clock):
    """After a 429 that names no time half as much is sent, then more by the minute, then all of it."""
    flow(limiter, clock, 20, 30)
    limiter.attempt(Call(), TARGET).answered(refused=True)
    assert flow(limiter, clock, 20, 5) == pytest.approx(50, abs=8)
    assert flow(limiter, clock, 20, 30) == pytest.approx(30 * 16.7, rel=0.1)
    clock.advance(60)
    assert flow(limiter, clock, 20, 5) == 100
    assert admitted(limiter) == 1000


def test_refusals_of_one_moment_count_once(limiter, clock):
    """Ten attempts that were under way when the first 429 came do not bring the pace down ten times."""
    flow(limiter, clock, 20, 30)
    tickets = [limiter.attempt(Call(), TARGET) for _ in range(10)]
    clock.advance(0.5)
    for ticket in tickets:
        ticket.answered(refused=True)
    assert flow(limiter, clock, 20, 5) == pytest.approx(52, abs=8)


def test_a_refused_call_may_be_tried_again(limiter):
    """After the first 429 one request may be sent at once, which is the retry of whoever was refused; not two."""
    limiter.attempt(Call(), TARGET).answered(refused=True)
    limiter.attempt(Call(), TARGET)
    assert limiter.outlook(Call(), TARGET).retry_after == pytest.approx(1 / MIN_PACE)


def test_a_second_refusal_in_a_row_holds_the_next_call(limiter):
    """A retry that is refused too is not followed by another one at once."""
    for _ in range(2):
        limiter.attempt(Call(), TARGET).answered(refused=True)
    assert limiter.outlook(Call(), TARGET).retry_after == pytest.approx(1 / MIN_PACE)


def test_nobody_is_held_longer_than_the_provider_says(limiter, clock):
    """Who comes back when he was told to is sent, however often that happens."""
    for _ in range(3):
        limiter.attempt(Call(), TARGET).answered(refused=True, retry_after=1)
        clock.advance(1)
    assert limiter.outlook(Call(), TARGET) is None


def test_the_pace_never_falls_to_nothing(limiter, clock):
    """However often a provider refuses, some requests remain."""
    for _ in range(20):
        clock.advance(30)
        limiter.attempt(Call(), TARGET).answered(refused=True)
    assert limiter.outlook(Call(), TARGET).retry_after <= 1 / MIN_PACE + 0.01


def test_waiters_wait_for_providers_too(clock):
    """Where calls wait their turn, they do so for what a provider asked as well, one pace apart."""
    limiter = RateLimiter([Limit(requests="100/s", per=("target",))], on_limit="wait", clock=clock)
    limiter.attempt(Call(), TARGET).answered(requests(0, 60, "60s"), retry_after=5)
    first, second = limiter.attempt(Call(), TARGET), limiter.attempt(Call(), TARGET)
    assert [first.wait, second.wait] == pytest.approx([5, 5])
    assert (first.over.limit, first.over.retry_after) == ("the provider's own limit", pytest.approx(5))
    clock.advance(5)
    assert [first.wait, second.wait] == [0, 0]
    with pytest.raises(RateLimited):
        limiter.attempt(Call(deadline=clock()), OTHER).answered(retry_after=50)
        limiter.attempt(Call(deadline=clock()), OTHER)


def test_the_longest_wait_is_named(clock):
    """Of the provider's own limit and ours the one that takes longer is told."""
    limiter = RateLimiter([Limit(requests="1/min", per=("target",), name="ours")], clock=clock)
    limiter.attempt(Call(), TARGET).answered(retry_after=40)
    assert limiter.outlook(Call(), TARGET).limit == "ours"
    clock.advance(30)
    limiter.attempt(Call(), OTHER).answered(retry_after=100)
    assert limiter.outlook(Call(), TARGET).limit == "ours"
    assert limiter.outlook(Call(), OTHER).limit == "the provider's own limit"


def test_in_shadow_mode_the_call_goes_on(clock):
    """What a provider asks for is only told."""
    limiter = RateLimiter([], on_limit="shadow", clock=clock)
    limiter.attempt(Call(), TARGET).answered(retry_after=5)
    ticket = limiter.attempt(Call(), TARGET)
    assert (ticket.wait, ticket.over.limit) == (0, "the provider's own limit")


def test_it_can_be_turned_off(clock):
    """A limiter that does not learn from providers does not."""
    limiter = RateLimiter([], learn_from_providers=False, clock=clock)
    limiter.attempt(Call(), TARGET).answered(refused=True, retry_after=100)
    assert admitted(limiter) == 1000


def test_the_number_of_targets_is_bounded(clock):
    """Targets that come and go do not pile up."""
    paces = Paces(clock)
    for number in range(20_000):
        assert paces[f"target-{number}"] is paces[f"target-{number}"]
    assert len(paces) <= 10_000


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, []),
        ({"x-ratelimit-remaining-requests": "59"}, []),
        ({"x-ratelimit-remaining-requests": "many", "x-ratelimit-reset-requests": "1s"}, []),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "soon"}, []),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "1s"}, [("requests", 9, None, 1)]),
        (
            {
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-reset-requests": "6m1.5s",
                "x-ratelimit-remaining-tokens": "1000",
                "x-ratelimit-limit-tokens": "2000",
                "x-ratelimit-reset-tokens": "120ms",
            },
            [("requests", 59, 60, 361.5), ("tokens", 1000, 2000, 0.12)],
        ),
        (
            {
                "date": "Mon, 23 Nov 2026 12:00:00 GMT",
                "anthropic-ratelimit-tokens-remaining": "1000",
                "anthropic-ratelimit-tokens-limit": "2000",
                "anthropic-ratelimit-tokens-reset": "2026-11-23T12:00:30Z",
            },
            [("tokens", 1000, 2000, 30)],
        ),
        (
            {"anthropic-ratelimit-tokens-remaining": "1", "anthropic-ratelimit-tokens-reset": "2026-11-23T12:00:30Z"},
            [],
        ),
        (
            {
                "llm_provider-x-ratelimit-remaining-requests": "3",
                "llm_provider-x-ratelimit-limit-requests": "0",
                "llm_provider-x-ratelimit-reset-requests": "2h",
            },
            [("requests", 3, None, 7200)],
        ),
        (
            {
                "x-ratelimit-remaining-requests": "3",
                "x-ratelimit-reset-requests": "1",
                "llm_provider-x-ratelimit-remaining-requests": "3",
                "llm_provider-x-ratelimit-reset-requests": "1",
            },
            [("requests", 3, None, 1)],
        ),
        (
            {
                "date": "Mon, 23 Nov 2026 12:00:00 GMT",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-limit-requests": "100",
                "x-ratelimit-reset-requests": "1795435230",
                "x-ratelimit-remaining-tokens": "9",
                "x-ratelimit-reset-tokens": "1795435230000",
            },
            [("requests", 0, 100, 30), ("tokens", 9, None, 30)],
        ),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1795435230"}, []),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "inf"}, []),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9" * 400 + "s"}, []),
        (
            {
                "date": "Mon, 23 Nov 2026 12:00:00 GMT",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1e300",
            },
            [],
        ),
    ],
)
def test_headers_are_read(headers, said):
    """Limits are read from the headers of OpenAI's and Anthropic's kind; what cannot be read is not there, and what is
    said twice is read once."""
    assert said_of(headers) == said
