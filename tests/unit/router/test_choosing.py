"""Which target is chosen, by what was learned, by price, and by what was asked for."""

from __future__ import annotations

from collections import Counter
from math import exp

import pytest

from llmkit_plugins import Call, ConfigError, NoTarget, Target, Usage
from llmkit_plugins.plugins.router import RouterConfig, SmartRouter

PRICES = {"a": (5.0, 20.0), "b": (1.0, 4.0), "c": (0.1, 0.4)}


def test_by_latency_the_fastest_is_chosen(lab) -> None:
    """Who answers sooner is preferred, and the others follow in the order of their speed."""
    made = lab(optimize_for="latency")
    made.teach(a=3.0, b=1.0, c=2.0)
    decision = made.router.route(Call("hi", "m"))
    assert [decision.target.name, *[target.name for target in decision.fallbacks]] == ["b", "c", "a"]
    assert decision.why == "best"
    assert decision.predicted_latency_ms == pytest.approx(1000, rel=0.2)


def test_long_answers_are_another_matter_than_short_ones(lab) -> None:
    """Who begins late but talks fast is the fastest for long answers, and the slowest for short ones."""
    made = lab("ab", optimize_for="latency")
    for _ in range(30):
        made.answer("a", first=0.2, seconds=4.2)
        made.answer("b", first=2.0, seconds=2.5)
    long, short = Call("hi", "m"), Call("hi", "m", params={"max_tokens": 10})
    assert made.router.route(long).target.name == "b"
    assert made.router.route(short).target.name == "a"


def test_whole_answers_teach_as_streams_do(lab) -> None:
    """Where no first chunk was seen, answers of different length still tell who begins late and who talks slowly."""
    made = lab("ab", optimize_for="latency")
    for number in range(150):
        tokens = 20 + number % 7 * 60
        for name, first, token in (("a", 0.2, 0.02), ("b", 2.0, 0.002)):
            made.answer(name, first=None, seconds=first + tokens * token, usage=Usage(200, tokens))
    stats = made.router.stats()
    assert stats["a"].first_chunk_seconds < stats["b"].first_chunk_seconds
    assert stats["a"].seconds_per_output_token > 2 * stats["b"].seconds_per_output_token


def test_whole_answers_of_one_length_leave_the_first_token_its_part(lab) -> None:
    """Where nothing tells when they begin, nothing is learned of it: the first token is not expected at once."""
    made = lab("a", optimize_for="latency")
    made.answer("a", times=200, first=None, seconds=1.0, usage=Usage(200, 100))
    stats = made.router.stats()["a"]
    assert stats.first_chunk_seconds + 99 * stats.seconds_per_output_token == pytest.approx(1.0, rel=0.05)
    assert stats.first_chunk_seconds > 0.04


def test_what_is_in_flight_counts(lab) -> None:
    """A little slower but idle is better than fast but busy as never before."""
    made = lab("ab", optimize_for="latency")
    made.teach(a=1.0, b=1.5)
    assert made.router.route(Call("hi", "m")).target.name == "a"
    for _ in range(8):
        made.begin("a")
    assert made.router.route(Call("hi", "m")).target.name == "b"


def test_a_fast_failure_is_not_fast(lab) -> None:
    """A target that fails at once is not preferred for it."""
    made = lab("ab", optimize_for="latency")
    made.teach(a=1.0, b=2.0)
    made.fail("a", times=5)
    assert made.router.route(Call("hi", "m")).target.name == "b"


@pytest.mark.parametrize("kind", ["bad_request", "content_filter", "context_length", None])
def test_the_callers_errors_say_nothing(lab, kind: str | None) -> None:
    """However often callers are wrong, the target is not less good for it."""
    made = lab("ab", optimize_for="latency")
    made.teach(a=1.0, b=2.0)
    made.fail("a", times=20, kind=kind)
    assert made.router.route(Call("hi", "m")).target.name == "a"
    assert made.router.stats()["a"].failures == 0


@pytest.mark.parametrize("outcome", ["cancelled", "refused"])
def test_who_leaves_says_nothing(lab, outcome: str) -> None:
    """Neither good nor bad: what was cancelled or refused only leaves what is in flight."""
    made = lab("ab", optimize_for="latency")
    made.teach(a=1.0, b=2.0)
    before = made.router.stats()["a"]
    for _ in range(20):
        attempt = made.begin("a")
        made.clock.advance(5.0)
        attempt.outcome, attempt.finished = outcome, made.clock()
        made.router.record(attempt)
    assert made.router.stats()["a"] == before


def test_a_timeout_also_means_slow(lab) -> None:
    """Who does not answer within ten seconds is expected to take longer than who answers in two."""
    made = lab("ab", optimize_for="latency")
    made.teach(a=1.0, b=2.0)
    for _ in range(3):
        attempt = made.begin("a")
        made.clock.advance(10.0)
        attempt.finished, attempt.outcome, attempt.kind = made.clock(), "error", "timeout"
        made.router.record(attempt)
    assert made.router.stats()["a"].first_chunk_seconds > 3.0


def test_by_cost_the_cheapest_is_chosen(lab) -> None:
    """However slow it is, as long as it answers; and the prediction tells what the call will cost."""
    made = lab(prices=PRICES, optimize_for="cost")
    made.teach(a=0.5, b=1.0, c=5.0)
    decision = made.router.route(Call("x" * 4000, "m", params={"max_tokens": 50}))
    assert [decision.target.name, *[target.name for target in decision.fallbacks]] == ["c", "b", "a"]
    assert decision.predicted_cost == pytest.approx((1000 * 0.1 + 50 * 0.4) / 1e6)


def test_the_prompt_decides_what_is_cheap(lab) -> None:
    """Dear input and cheap output: best for short prompts; the other way round: for long ones."""
    made = lab("ab", prices={"a": (10.0, 1.0), "b": (1.0, 10.0)}, optimize_for="cost")
    made.teach(a=1.0, b=1.0)
    assert made.router.route(Call("x" * 40, "m")).target.name == "a"
    assert made.router.route(Call("x" * 40_000, "m")).target.name == "b"


def test_a_failing_target_is_not_cheap(lab) -> None:
    """A target ten times as cheap that fails all the time is not used."""
    made = lab(prices=PRICES, optimize_for="cost")
    made.teach(a=1.0, b=1.0, c=1.0)
    made.fail("c", times=6)
    assert made.router.route(Call("hi", "m")).target.name == "b"


def test_a_target_in_a_jam_is_not_cheap(lab) -> None:
    """A target that has become twenty times as slow as usual is not worth a tenth of the price."""
    made = lab("bc", prices=PRICES, optimize_for="cost")
    made.teach(times=80, b=1.0, c=1.0)
    made.answer("c", times=30, first=10.0, seconds=20.0)
    assert made.router.route(Call("hi", "m")).target.name == "b"


def test_an_unknown_price_comes_after_all_that_are_known(lab) -> None:
    """Nobody is cheap because nobody knows what they cost, and the decision says so."""
    made = lab(prices={"a": (5.0, 20.0), "b": (1000.0, 4000.0)}, optimize_for="cost")
    decision = made.router.route(Call("hi", "m"))
    assert [decision.target.name, *[target.name for target in decision.fallbacks]] == ["a", "b", "c"]
    assert any("c" in reason and "unknown" in reason for reason in decision.reasons)
    made = lab("c", optimize_for="cost")
    assert made.router.route(Call("hi", "m")).predicted_cost is None


def test_by_reliability_the_most_reliable_is_chosen(lab) -> None:
    """Who fails one time in twenty is avoided for one five times as slow that does not."""
    made = lab("ab", optimize_for="reliability")
    for number in range(400):
        made.fail("a") if number % 20 == 0 else made.answer("a", seconds=1.0)
        made.answer("b", seconds=5.0)
    assert made.shares(50)["b"] == 50


def test_balanced_weighs(lab) -> None:
    """Half the latency is worth four times the price, not five; other weights, other choices."""
    for dear, best in ((3.0, "a"), (5.0, "b")):
        made = lab("ab", prices={"a": (dear, dear), "b": (1.0, 1.0)}, optimize_for="balanced")
        made.teach(times=40, a=1.0, b=2.0)
        assert made.router.route(Call("hi", "m")).target.name == best
    made = lab("ab", prices={"a": (5.0, 5.0), "b": (1.0, 1.0)}, weights={"latency": 9.0})
    made.teach(times=40, a=1.0, b=2.0)
    assert made.router.route(Call("hi", "m")).target.name == "a"


def test_the_cheapest_that_is_fast_enough(lab) -> None:
    """With objectives and nothing else said, price decides among those that meet them."""
    made = lab(prices=PRICES, max_latency_seconds=4.0)
    made.teach(times=30, a=0.5, b=1.0, c=8.0)
    decision = made.router.route(Call("hi", "m"))
    assert decision.target.name == "b"
    assert "meets the objectives" in decision.reasons


@pytest.mark.parametrize(
    ("objective", "best"),
    [({"max_latency_seconds": 0.1}, "a"), ({"max_cost_usd": 1e-9}, "c"), ({"min_success_rate": 0.9999}, "b")],
)
def test_where_no_target_meets_the_objectives_the_nearest_is_taken(lab, objective, best: str) -> None:
    """The one that misses them by least, and the decision says that it does."""
    made = lab(prices=PRICES, **objective)
    for _ in range(60):
        made.fail("a", times=1)
        made.fail("c", times=1)
        made.answer("b", times=15, first=5.0, seconds=10.0)
        made.answer("a", times=8, first=0.5, seconds=1.0)
        made.answer("c", times=8, first=5.0, seconds=10.0)
    decision = made.router.route(Call("hi", "m"))
    assert (decision.target.name, decision.why) == (best, "compromise")


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_where_all_miss_the_objectives_alike_the_rest_decides(order: str) -> None:
    """Not who was listed first: with one latency for all, and an objective nobody meets, the cheaper one is chosen."""
    prices = {"a": 10.0, "b": 0.1}
    targets = [Target(name, "p", "m", input_price=prices[name], output_price=prices[name]) for name in order]
    router = SmartRouter(targets, optimize_for="cost", max_latency_seconds=1e-3, exploration=0.0)
    decision = router.route(Call("hi", "m"))
    assert (decision.target.name, decision.why) == ("b", "compromise")
    assert any("misses the objectives by" in reason for reason in decision.reasons)


def test_an_objective_is_about_nine_in_ten_answers(lab) -> None:
    """Of two that are as fast on average, the one whose answers vary too much does not meet the objective."""
    made = lab("ab", prices={"a": (1.0, 1.0), "b": (2.0, 2.0)}, max_latency_seconds=0.015)
    chosen = Counter[str]()
    for _ in range(400):
        for name, spread in (("a", 1.0), ("b", 0.1)):
            first = 0.01 * exp(made.random.gauss(-spread * spread / 2, spread))
            made.answer(name, first=first, seconds=first + 0.0001)
        chosen[made.router.route(Call("hi", "m")).target.name] += 1
    assert chosen["b"] > 250


def test_a_target_that_asked_to_be_left_alone_is(lab) -> None:
    """For as long as it said, and then it is used again."""
    made = lab(optimize_for="latency")
    made.teach(a=1.0, b=2.0, c=3.0)
    made.fail("a", kind="rate_limit", retry_after=20.0)
    assert made.router.stats()["a"].away_seconds == pytest.approx(20.0)
    order = made.router.route(Call("hi", "m")).order
    assert [target.name for target in order] == ["b", "c", "a"]
    made.clock.advance(20.0)
    assert made.router.route(Call("hi", "m")).target.name == "a"


def test_without_retry_after_the_wait_doubles(lab) -> None:
    """A second, two, four …, until it answers."""
    made = lab("ab")
    waits = []
    for _ in range(4):
        made.fail("a", kind="rate_limit")
        waits.append(made.router.stats()["a"].away_seconds)
        made.clock.advance(waits[-1])
    assert waits == pytest.approx([1.0, 2.0, 4.0, 8.0])
    made.answer("a")
    made.fail("a", kind="rate_limit")
    assert made.router.stats()["a"].away_seconds == pytest.approx(1.0)


def test_where_all_asked_to_be_left_alone_the_first_to_be_back_is_taken(lab) -> None:
    """The call is not refused by the router: the provider may have spoken of something else."""
    made = lab()
    for name, seconds in (("a", 30.0), ("b", 5.0), ("c", 60.0)):
        made.fail(name, kind="rate_limit", retry_after=seconds)
    decision = made.router.route(Call("hi", "m"))
    assert (decision.target.name, decision.why) == ("b", "away")
    assert [target.name for target in decision.fallbacks] == ["a", "c"]


def test_equals_share_by_weight(lab) -> None:
    """Among targets that are about as good, traffic is in proportion to weight; weight 0 is for when nobody else is."""
    made = lab(options={"a": {"weight": 3.0}, "b": {"weight": 1.0}, "c": {"weight": 0.0}}, optimize_for="latency")
    made.teach(a=1.0, b=1.0, c=1.0)
    shares = made.shares(2000)
    assert shares["a"] == pytest.approx(1500, rel=0.1)
    assert shares["c"] == 0


def test_equals_share_by_what_is_in_flight(lab) -> None:
    """Of two that are about as good, the busier one is chosen only where both draws fall on it."""
    made = lab("ab", optimize_for="latency")
    for _ in range(30):
        busy = [made.begin("a") for _ in range(3)]
        for attempt in busy:
            made.end(attempt)
        made.answer("b")
    held = [made.begin("a") for _ in range(3)]
    shares = made.shares(1000)
    assert held
    assert shares["b"] == pytest.approx(750, rel=0.1)


def test_only_what_was_given_is_chosen(lab) -> None:
    """The targets of a call are those it was given, not those the router was made with."""
    made = lab()
    assert made.router.route(Call("hi", "m"), [made["b"]]).order == (made["b"],)
    with pytest.raises(NoTarget):
        made.router.route(Call("hi", "m"), [])


@pytest.mark.parametrize("count", [1, 2, 3, 200])
def test_power_of_two_finds_the_best(lab, count: int) -> None:
    """Comparing the next in turn with the last winner soon finds the one that is five times as fast as the others."""
    names = [f"t{number}" for number in range(count)]
    made = lab(names, optimize_for="latency", power_of_two_above=0)
    for number, name in enumerate(names):
        made.answer(name, times=3, seconds=1.0 if number == count // 2 else 5.0)
    made.shares(10 * count)
    assert made.shares(100)[names[count // 2]] == 100


def test_power_of_two_spreads_over_equals(lab) -> None:
    """With a hundred equal targets each gets its part, and no two calls in flight meet while others are idle."""
    names = [f"t{number}" for number in range(100)]
    made = lab(names, optimize_for="latency", power_of_two_above=10)
    shares: Counter[str] = Counter()
    for _ in range(5000):
        decision = made.router.route(Call("hi", "m"))
        shares[decision.target.name] += 1
        assert decision.why == "two_choices"
    assert len(shares) == 100
    assert max(shares.values()) < 100


def test_routers_begun_together_do_not_begin_alike(lab) -> None:
    """Fifty processes that choose for the first time among a hundred targets do not all ask the same few."""
    names = [f"t{number}" for number in range(100)]
    firsts = {lab(names, seed=seed).router.route(Call("hi", "m")).target.name for seed in range(50)}
    assert len(firsts) > 30


def test_the_fallbacks_of_two_choices_are_all_others(lab) -> None:
    """Nobody is forgotten, and nobody comes twice."""
    made = lab([f"t{number}" for number in range(20)], power_of_two_above=5)
    for _ in range(50):
        order = made.router.route(Call("hi", "m")).order
        assert sorted(target.name for target in order) == sorted(target.name for target in made.router.targets)


def test_in_flight_is_exact(lab) -> None:
    """However often, late or never an attempt is told to have ended, what is in flight is what is."""
    made = lab("a")
    first, second = made.begin("a"), made.begin("a")
    assert made.router.stats()["a"].in_flight == 2
    made.end(first)
    made.end(first)
    assert made.router.stats()["a"].in_flight == 1
    made.end(second)
    made.end(second)
    assert made.router.stats()["a"].in_flight == 0


def test_what_never_ends_is_not_in_flight_for_ever(lab) -> None:
    """Attempts whose end was never told are forgotten within twenty minutes, and a late end does no harm."""
    made = lab("a")
    lost = [made.begin("a") for _ in range(50)]
    for _ in range(45):
        made.answer("a", seconds=30.0)
    assert made.router.stats()["a"].in_flight == 0
    made.end(lost[0])
    assert made.router.stats()["a"].in_flight == 0


def test_usage_that_nobody_counted(lab) -> None:
    """Where the provider counts no tokens, answers are taken to be as long as usual, and targets can be told apart."""
    made = lab("ab", optimize_for="latency")
    for _ in range(20):
        for name, seconds in (("a", 2.0), ("b", 4.0)):
            attempt = made.begin(name)
            made.clock.advance(seconds)
            attempt.first_chunk, attempt.finished, attempt.outcome = attempt.started + 0.5, made.clock(), "ok"
            made.router.record(attempt, Call("hi", "m"))
    assert made.router.route(Call("hi", "m")).target.name == "a"


def test_settings_are_given_once() -> None:
    """By name or as a config, not both; and an unknown one is an error that names it."""
    assert SmartRouter(config=RouterConfig(optimize_for="cost")).config.optimize_for == "cost"
    with pytest.raises(ConfigError, match="exploration"):
        SmartRouter(config=RouterConfig(), exploration=0.1)
    with pytest.raises(ConfigError, match="optimise_for"):
        SmartRouter(optimise_for="cost")


def test_the_prompt_decides_who_is_fast(lab) -> None:
    """Who reads prompts slowly is the fastest for short ones only, once that is known."""
    made = lab("ab", optimize_for="latency")
    for number in range(400):
        chars = (400, 4000, 12_000)[number % 3]
        call = Call("x" * chars, "m")
        for name, first in (("a", 0.1 + chars / 4000), ("b", 1.5)):
            made.answer(name, first=first, seconds=first + 0.1, usage=Usage(chars // 4, 10), call=call)
    assert made.router.route(Call("x" * 400, "m")).target.name == "a"
    assert made.router.route(Call("x" * 12_000, "m")).target.name == "b"


def test_an_answer_nobody_timed_still_is_an_answer(lab) -> None:
    """Where it is not known when an attempt was sent, it counts as answered and teaches nothing of latency."""
    made = lab("a")
    attempt = made.begin("a")
    attempt.started, attempt.outcome = None, "ok"
    made.router.record(attempt)
    assert made.router.stats()["a"].answers == 1
    assert made.router.stats()["a"].first_chunk_seconds == 0.5


@pytest.mark.parametrize(("retry_after", "away"), [(10.0, 10.0), (None, 0.0)])
def test_an_overloaded_target_that_says_for_how_long_is_left_alone(lab, retry_after, away: float) -> None:
    """An overload speaks of health; with Retry-After, of capacity too."""
    made = lab("ab", optimize_for="latency")
    made.fail("a", kind="overloaded", retry_after=retry_after)
    assert made.router.stats()["a"].away_seconds == pytest.approx(away)
    assert made.router.stats()["a"].failures == 1


def test_a_bound_below_nothing_is_none(lab) -> None:
    """A caller who asks for fewer than no tokens has set no bound: -1 is what some write for that."""
    made = lab("a")
    asked, unasked = (made.router.route(Call("hi", "m", params=params)) for params in ({"max_tokens": -1}, {}))
    assert asked.predicted_latency_ms == unasked.predicted_latency_ms > 500


def test_power_of_two_with_fewer_targets_than_before(lab) -> None:
    """The last winner may be gone: then another one wins."""
    made = lab("abcd", power_of_two_above=0)
    made.shares(50)
    for _ in range(20):
        assert made.router.route(Call("hi", "m"), made.router.targets[:1]).target.name == "a"
