"""Several limits at once, refusing."""

from __future__ import annotations

import traceback

import pytest

from llmkit_plugins import Call, ConfigError, RateLimited, Target
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiter

FAST = Target("fast", "openai", "gpt-4o")
SLOW = Target("slow", "openai", "gpt-4")


def test_the_narrowest_limit_decides(clock):
    """Of provider, model and user the first that is used up refuses, and is counted."""
    limiter = RateLimiter.hierarchical(clock=clock)
    assert limiter.check_and_consume("openai", "gpt-4o", "ann")
    assert not limiter.check_and_consume("openai", "gpt-4o", "ann")
    assert [limiter.check_and_consume("openai", "gpt-4o", f"user-{n}") for n in range(10)] == [True] * 9 + [False]
    assert {name: stats.refused for name, stats in limiter.stats().items()} == {
        "requests 100/s per provider": 0,
        "requests 10/s per model": 1,
        "requests 1/s per user": 1,
    }


def test_a_refusal_takes_nothing(clock):
    """What one level refuses is not charged to the others."""
    limits = [Limit(requests="2/min", per=("provider",)), Limit(requests="1/min", per=("user",))]
    limiter = RateLimiter(limits, clock=clock)
    assert limiter.check_and_consume("p", user="ann")
    assert not any(limiter.check_and_consume("p", user="ann") for _ in range(5))
    assert limiter.check_and_consume("p", user="bob")
    assert not limiter.check_and_consume("p", user="cid")


def test_a_refusal_names_limit_key_and_seconds(clock):
    """Of the levels that refuse, the one with the longest wait is named, and its wait is exact."""
    limits = [Limit(requests="1/s", per=("provider",)), Limit(requests="1/min", per=("user", "model"))]
    limiter = RateLimiter(limits, clock=clock)
    limiter.acquire("p", "m", "ann")
    clock.advance(0.5)
    with pytest.raises(RateLimited) as caught:
        limiter.acquire("p", "m", "ann")
    over = caught.value
    assert (over.limit, over.key) == ("requests 1/min per user and model", "ann/m")
    assert over.retry_after == pytest.approx(59.5)
    with pytest.raises(RateLimited) as caught:
        limiter.acquire("p", "m", "bob")
    assert (caught.value.limit, caught.value.retry_after) == ("requests 1/s per provider", pytest.approx(0.5))
    clock.advance(over.retry_after)
    assert limiter.acquire("p", "m", "ann")


def test_who_lacks_a_key_is_not_subject_to_its_limit(clock):
    """A call without a user is only subject to the limits of the others."""
    limiter = RateLimiter.hierarchical(clock=clock)
    assert sum(limiter.check_and_consume("openai", "gpt-4o") for _ in range(20)) == 10
    assert sum(limiter.check_and_consume() for _ in range(200)) == 200


def test_a_limit_of_nothing_in_particular_is_of_all(clock):
    """Without ``per`` all calls are counted together."""
    limiter = RateLimiter([Limit(requests="3/s")], clock=clock)
    assert [limiter.check_and_consume(user=user) for user in "abcd"] == [True, True, True, False]


def test_several_keys_count_each_combination(clock):
    """Per user and model is one bucket for each pair."""
    limiter = RateLimiter([Limit(requests="1/s", per=("user", "model"))], clock=clock)
    pairs = [("m", "ann"), ("n", "ann"), ("m", "bob"), ("m", "ann")]
    assert [limiter.check_and_consume(model=model, user=user) for model, user in pairs] == [True, True, True, False]


@pytest.mark.parametrize("key", ["provider", "model", "user", "tenant", "target"])
def test_each_fact_is_counted_under_its_own_name(clock, key):
    """A limit per any one fact tells its values apart, and does not mind the other facts."""
    limiter = RateLimiter([Limit(requests="1/s", per=(key,))], clock=clock)
    facts = {"provider": "p", "model": "m", "user": "u", "tenant": "t", "target": "x"}
    assert [limiter.check_and_consume(**{**facts, key: value}) for value in "abab"] == [True, True, False, False]
    others = dict.fromkeys(facts, "other") | {key: "a"}
    assert not limiter.check_and_consume(**others)
    assert limiter.acquire(**dict.fromkeys(facts, "new"))
    assert not limiter.check_and_consume(**dict.fromkeys(facts, "new"))


def test_metadata_can_be_a_key(clock):
    """Any metadata key can be limited by."""
    limiter = RateLimiter([Limit(requests="1/s", per=("metadata.team",))], clock=clock)
    teams = [{"team": "x"}, {"team": "y"}, {"team": "x"}, {}]
    assert [limiter.check_and_consume(metadata=team) for team in teams] == [True, True, False, True]


def test_a_limit_may_match_some_calls_only(clock):
    """A limit that matches gpt-4* leaves the others alone."""
    limiter = RateLimiter([Limit(requests="1/s", match={"model": "gpt-4*"})], clock=clock)
    models = ["gpt-4o", "gpt-4", "claude", "claude"]
    assert [limiter.check_and_consume(model=model) for model in models] == [True, False, True, True]


def test_tokens_and_dollars_are_counted(clock):
    """Input, output and both together, and dollars, are each a bucket of its own."""
    limiter = RateLimiter(
        [
            Limit(input_tokens="100/min", output_tokens="50/min", tokens="120/min", per=("user",)),
            Limit(cost="1 USD/day", per=("tenant",)),
        ],
        clock=clock,
    )
    assert limiter.check_and_consume(user="ann", tenant="t", input_tokens=60, output_tokens=40, cost=0.75)
    assert not limiter.check_and_consume(user="ann", input_tokens=50)
    assert not limiter.check_and_consume(user="ann", output_tokens=15)
    assert not limiter.check_and_consume(user="ann", input_tokens=15, output_tokens=10)
    assert limiter.check_and_consume(user="ann", input_tokens=10, output_tokens=10)
    assert not limiter.check_and_consume(user="bob", tenant="t", cost=0.5)
    assert limiter.check_and_consume(user="bob", tenant="t", cost=0.25)


def test_an_amount_beyond_the_burst_is_not_told_to_come_back(clock):
    """What can never be admitted says so: there is no time after which to retry."""
    limiter = RateLimiter([Limit(tokens="100/min", per=("user",))], clock=clock)
    for ask in (limiter.acquire, limiter.check_and_consume):
        with pytest.raises(RateLimited, match="it can never admit this call") as caught:
            ask(user="ann", input_tokens=101)
        assert caught.value.retry_after is None
    assert limiter.check_and_consume(user="ann", input_tokens=100)


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf")])
def test_amounts_are_numbers(clock, amount):
    """What is no number, or less than nothing, is an error."""
    limiter = RateLimiter([Limit(tokens="100/min")], clock=clock)
    with pytest.raises(ConfigError, match="output_tokens"):
        limiter.check_and_consume(output_tokens=amount)


def test_the_two_phases_of_a_call(clock):
    """The caller's limits are charged once for the request, the target's for each attempt."""
    limits = [Limit(requests="2/min", per=("user",)), Limit(requests="1/min", per=("target",))]
    limiter = RateLimiter(limits, clock=clock)
    call = Call(user="ann")
    limiter.request(call)
    limiter.attempt(call, FAST)
    limiter.attempt(call, SLOW)
    limiter.request(call)
    with pytest.raises(RateLimited, match="per target"):
        limiter.attempt(call, FAST)
    with pytest.raises(RateLimited, match="per user"):
        limiter.request(call)


def test_the_outlook_of_a_target(clock):
    """The outlook says which refusal an attempt would meet, and takes nothing."""
    limiter = RateLimiter([Limit(requests="1/min", per=("target",))], clock=clock)
    call = Call()
    assert limiter.outlook(call, FAST) is None
    assert limiter.outlook(call, FAST) is None
    limiter.attempt(call, FAST)
    over = limiter.outlook(call, FAST)
    assert over is not None
    assert (over.key, over.retry_after) == ("fast", pytest.approx(60))
    assert limiter.outlook(call, SLOW) is None


@pytest.mark.parametrize("on_limit", ["reject", "shadow"])
@pytest.mark.parametrize(
    "limits",
    [
        [Limit(requests="2/s", per=("target",))],
        [Limit(requests="3/s", per=("provider",)), Limit(requests="2/s", per=("user", "model"))],
        [Limit(requests="3/s", per=("provider",)), Limit(concurrency=2, per=("target",))],
        [Limit(requests="2/s", per=("target",), match={"model": "gpt-4"})],
        [Limit(requests="3/s", per=("provider",)), Limit(output_tokens="500/s", per=("model",))],
        [Limit(requests="2/s", per=("target", "metadata.team"))],
    ],
)
def test_the_outlook_is_what_an_attempt_meets(clock, limits, on_limit):
    """Whatever limits there are, of whatever kind: an attempt is over a limit when and where the outlook said so."""
    limiter = RateLimiter(limits, on_limit=on_limit, clock=clock)
    calls = [Call(user=user, metadata=metadata) for user, metadata in (("ann", {"team": "x"}), (None, {}))]
    met = []
    for number in range(60):
        clock.advance(number % 3 * 0.1)
        call, target = calls[number % 2], (FAST, SLOW)[number % 5 < 2]
        expected = limiter.outlook(call, target)
        try:
            over = limiter.attempt(call, target).over
        except RateLimited as refusal:
            over = refusal
        assert (over and (over.limit, over.key, over.retry_after)) == (
            expected and (expected.limit, expected.key, expected.retry_after)
        )
        met.append(over)
    assert None in met
    assert any(met)


def test_without_limits_everything_passes(clock):
    """A limiter without limits admits, and has nothing to tell."""
    limiter = RateLimiter([], clock=clock)
    assert limiter.check_and_consume("p", "m", "u")
    ticket = limiter.request(Call(user="u"))
    ticket.settle(5, 5)
    ticket.refund()
    assert limiter.stats() == {}


def test_shadow_counts_and_lets_pass(clock):
    """In shadow mode the refusal is told and counted, nothing is taken for it, and the call goes on."""
    limiter = RateLimiter([Limit(requests="1/min", per=("user",), name="free")], on_limit="shadow", clock=clock)
    assert limiter.acquire(user="ann").over is None
    ticket = limiter.acquire(user="ann")
    assert ticket.over is not None
    assert (ticket.over.limit, ticket.over.retry_after) == ("free", pytest.approx(60))
    assert ticket.wait == 0.0
    ticket.refund()
    assert limiter.check_and_consume(user="ann")
    assert limiter.stats()["free"].refused == 2
    clock.advance(60)
    assert limiter.acquire(user="ann").over is None


def test_many_levels_are_no_special_case(clock):
    """Nine limits are all or nothing as one is."""
    limits = [Limit(requests=f"{n}/min", name=f"limit {n}") for n in range(9, 0, -1)]
    limiter = RateLimiter(limits, clock=clock)
    assert [limiter.check_and_consume() for _ in range(3)] == [True, False, False]
    assert limiter.stats()["limit 1"].refused == 2
    clock.advance(60)
    assert limiter.check_and_consume()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"on_limit": "explode"}, "on_limit"),
        ({"max_wait_seconds": 0}, "max_wait_seconds"),
        ({"lease_seconds": -1}, "lease_seconds"),
        ({"max_keys": 0}, "max_keys"),
    ],
)
def test_impossible_settings_are_errors(settings, key):
    """Each wrong setting is named."""
    with pytest.raises(ConfigError) as caught:
        RateLimiter([Limit(requests="1/s")], **settings)
    assert caught.value.key == key


def test_two_limits_of_one_name_are_an_error():
    """Errors and metrics have to tell limits apart."""
    with pytest.raises(ConfigError, match="two limits are called 'requests 1/s'"):
        RateLimiter([Limit(requests="1/s"), Limit(requests="1/s")])


def test_what_is_written_out_can_be_read_in_a_traceback(clock):
    """The compiled check shows its text, so that a debugger can step through it."""

    def broken() -> float:
        raise OSError("no clock")

    limiter = RateLimiter([Limit(requests="1/s")], clock=broken)
    with pytest.raises(OSError, match="no clock") as caught:
        limiter.check_and_consume()
    assert "now = clock()" in "".join(traceback.format_tb(caught.tb))


def test_keys_and_stats(clock):
    """The number of keys that are remembered is told for each limit."""
    limiter = RateLimiter([Limit(requests="1/s", per=("user",))], clock=clock)
    for number in range(5):
        limiter.check_and_consume(user=f"user-{number}")
    assert limiter.stats()["requests 1/s per user"].keys == 5
