"""Whatever a router has been told, it chooses among what it was given, and its numbers are numbers."""

from __future__ import annotations

from math import isfinite
from random import Random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit_plugins import Attempt, Call, Target, Usage
from llmkit_plugins.errors import ErrorKind
from llmkit_plugins.plugins.router import SmartRouter
from llmkit_plugins.plugins.router.exploration import Candidate, Exploration
from llmkit_plugins.testing import ManualClock

MODES = ["latency", "cost", "reliability", "balanced", None]
NAMES = "abcd"
SECONDS = st.one_of(st.sampled_from([0.0, 1e-12, 0.3, 5.0, 1e9]), st.floats(0, 100, allow_nan=False))
PRICES = st.one_of(st.none(), st.sampled_from([0.0, 1e-9, 1.0, 1e12]))
TOKENS = st.sampled_from([0, 1, 2, 100, 10**7])

ENDS = ["ok", "whole", "cancelled", "refused", "begun", "unbegun", "twice", *get_args(ErrorKind)]

EVENTS = st.tuples(
    st.sampled_from(NAMES),
    st.sampled_from(ENDS),
    SECONDS,
    SECONDS,
    st.one_of(st.none(), TOKENS),
    st.sampled_from([0.0, 0.001, 1.0, 100.0, 1e7]),
)
OUTCOMES = {
    "ok": "ok",
    "whole": "ok",
    "unbegun": "ok",
    "twice": "ok",
    "cancelled": "cancelled",
    "refused": "refused",
}

OBJECTIVES = st.fixed_dictionaries(
    {},
    optional={
        "max_latency_seconds": st.sampled_from([1e-9, 1.0, 1e9]),
        "max_cost_usd": st.sampled_from([1e-12, 1e6]),
        "min_success_rate": st.sampled_from([0.01, 0.999]),
        "affinity": st.sampled_from(["soft", "strict"]),
        "affinity_chars": st.just(1),
        "power_of_two_above": st.sampled_from([0, 2, 64]),
        "exploration": st.sampled_from([0.0, 0.5]),
        "weights": st.fixed_dictionaries(
            {"latency": st.just(10.0), "cost": st.just(10.0), "reliability": st.just(100.0)}
        ),
    },
)


def tell(router: SmartRouter, clock: ManualClock, event) -> None:
    """One attempt, however it ends, at any moment of a clock that goes on."""
    name, end, first, rest, tokens, pause = event
    target = next(target for target in router.targets if target.name == name)
    call, attempt = Call("hi", "m", user="ann"), Attempt(1, target, started=clock())
    if end != "unbegun":
        router.begin(attempt)
    clock.advance(pause)
    if end == "begun":
        return
    attempt.finished = attempt.started + first + rest
    attempt.first_chunk = attempt.started + first if end == "ok" else None
    attempt.usage = None if tokens is None else Usage(tokens, tokens, cached_tokens=tokens // 2)
    attempt.outcome = OUTCOMES.get(end, "error")
    attempt.kind = end if attempt.outcome == "error" else None
    attempt.retry_after = first if end in ("rate_limit", "overloaded") else None
    for _ in range(2 if end == "twice" else 1):
        router.record(attempt, call)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(MODES),
    OBJECTIVES,
    st.lists(st.tuples(PRICES, PRICES, PRICES), min_size=4, max_size=4),
    st.lists(EVENTS, max_size=60),
    st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
)
def test_it_chooses_from_what_it_was_given_and_its_numbers_are_finite(mode, objectives, prices, history, given_names):
    """After any history: one of the targets given, all of them in the order, each once; and no score is infinite."""
    targets = [
        Target(name, "p", "m", input_price=i, output_price=o, cached_price=c)
        for name, (i, o, c) in zip(NAMES, prices, strict=True)
    ]
    clock = ManualClock(1000.0)
    router = SmartRouter(targets, clock=clock, random=Random(1).random, optimize_for=mode, **objectives)
    for event in history:
        tell(router, clock, event)
    offered = [target for target in targets if target.name in given_names]
    decision = router.route(Call("hello", "m", user="ann"), offered)
    assert sorted(target.name for target in decision.order) == sorted(given_names)
    assert decision.order == (decision.target, *decision.fallbacks)
    assert isfinite(decision.predicted_latency_ms)
    assert decision.predicted_latency_ms > 0
    assert decision.predicted_cost is None or isfinite(decision.predicted_cost)
    assert decision.reasons
    for row in router.explain(Call("hello", "m"), offered).rows:
        assert isfinite(row.score)
        assert row.score >= 1
        assert 0 < row.prediction.success < 1
        assert isfinite(row.prediction.p90_seconds)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(MODES), st.lists(EVENTS, max_size=40), st.permutations(NAMES), st.booleans())
def test_the_order_of_the_targets_does_not_matter(mode, history, shuffled, limited):
    """Given in another order, targets that can be told apart are ranked the same."""
    rankings = []
    for names in (NAMES, shuffled):
        clock = ManualClock(1000.0)
        prices = {name: 1.0 + 3.0 * place for place, name in enumerate(NAMES)}
        targets = [Target(name, "p", "m", input_price=prices[name], output_price=prices[name]) for name in names]
        objectives = {"max_latency_seconds": 1.0} if limited else {}
        router = SmartRouter(targets, clock=clock, optimize_for=mode, exploration=0.0, **objectives)
        for event in history:
            tell(router, clock, event)
        rows = router.explain(Call("hi", "m")).rows
        rankings.append({row.target: row.score for row in rows})
        assert [row.score for row in rows] == sorted(row.score for row in rows)
    assert rankings[0] == rankings[1]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(MODES[:4]),
    st.sampled_from(["latency", "price", "failures"]),
    st.integers(0, 3),
    st.permutations(NAMES),
)
def test_all_goals_agree_on_targets_that_differ_in_one_thing(mode, dimension, best, names):
    """Where one target is faster, cheaper or fails less, and equal in all else, every goal that minds chooses it."""
    minds = {"latency": ("latency", "reliability", "balanced"), "price": ("cost", "balanced")}
    if mode not in minds.get(dimension, MODES):
        return
    clock = ManualClock(1000.0)
    better = NAMES[best]
    price = {name: 0.2 if dimension == "price" and name == better else 1.0 for name in names}
    targets = [Target(name, "p", "m", input_price=price[name], output_price=price[name]) for name in names]
    router = SmartRouter(targets, clock=clock, random=Random(2).random, optimize_for=mode, exploration=0.0)
    for number in range(200):
        for name in names:
            fast = 0.05 if dimension == "latency" and name == better else 1.0
            fails = dimension == "failures" and name != better and number % 3 < 2
            tell(router, clock, (name, "server" if fails else "ok", fast, fast, 100, 0.5))
    assert router.route(Call("hi", "m")).target.name == better


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([0.0, 0.01, 0.3]),
    st.lists(
        st.lists(st.tuples(st.floats(0.5, 50.0), st.floats(1.0, 50.0), st.booleans(), SECONDS), max_size=5), max_size=40
    ),
)
def test_exploration_spends_no_more_than_it_may(share, looks):
    """Of the targets that were never as good, at most the share is spent; with 0 nobody is tried at all."""
    exploration, spent, now = Exploration(share, 0.0), 0.0, 0.0
    for calls, candidates in enumerate(looks, 1):
        now += 2.0
        if not exploration.due(now):
            assert share == 0.0
            continue
        chosen = exploration.choose([Candidate(place, *each) for place, each in enumerate(candidates)], now)
        if chosen is not None and candidates[chosen][0] > 1.25:
            spent += candidates[chosen][0]
        assert spent <= share * calls + 1e-9


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(MODES),
    st.fixed_dictionaries(
        {"max_latency_seconds": st.sampled_from([0.1, 1.0, 10.0])},
        optional={"max_cost_usd": st.sampled_from([1e-4, 1e-3]), "min_success_rate": st.sampled_from([0.5, 0.99])},
    ),
    st.sampled_from([{}, {"affinity": "soft", "affinity_chars": 1}, {"affinity": "strict", "affinity_chars": 1}]),
    st.lists(EVENTS, max_size=40),
)
def test_who_meets_the_objectives_goes_first(mode, objectives, affinity, history):
    """Of the targets that may be called now, one that meets them is chosen whenever there is one."""
    clock = ManualClock(1000.0)
    targets = [
        Target(name, "p", "m", input_price=price, output_price=price)
        for name, price in zip(NAMES, (0.1, 1.0, 10.0, None), strict=True)
    ]
    router = SmartRouter(
        targets, clock=clock, random=Random(1).random, optimize_for=mode, exploration=0.0, **objectives, **affinity
    )
    for event in history:
        tell(router, clock, event)
    call = Call("hi", "m", user="ann")
    good = [
        row.target
        for row in router.explain(call).rows
        if "meets the objectives" in row.notes and not router.stats()[row.target].away_seconds
    ]
    decision = router.route(call)
    assert decision.target.name in good or not good
    assert (decision.why in ("compromise", "away")) == (not good)
    assert [target.name for target in decision.order[: len(good)] if target.name not in good] == []


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([0, 64]), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=80))
def test_what_is_in_flight_is_what_began_and_has_not_ended(power_of_two_above, steps):
    """Never less than none, whatever ends twice or without having begun; and none when all have ended."""
    clock = ManualClock(1000.0)
    targets = [Target(name, "p", "m") for name in NAMES]
    router = SmartRouter(targets, clock=clock, power_of_two_above=power_of_two_above)
    attempts = [Attempt(1, targets[number % 4], started=1000.0, finished=1001.0, outcome="ok") for number in range(6)]
    under_way = set()

    def told() -> int:
        return sum(stats.in_flight for stats in router.stats().values())

    for number, begins in steps:
        if begins:
            router.begin(attempts[number])
            under_way.add(number)
        else:
            router.record(attempts[number], Call("hi", "m"))
            under_way.discard(number)
        assert told() == len(under_way)
    for number in range(6):
        router.record(attempts[number], Call("hi", "m"))
    assert told() == 0


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(MODES), st.lists(EVENTS, max_size=40), st.sampled_from([0.0, 0.37, 0.999]))
def test_without_exploration_nobody_is_chosen_who_is_notably_worse(mode, history, chance):
    """However chance falls, the target chosen is the best, or about as good."""
    clock = ManualClock(1000.0)
    targets = [Target(name, "p", "m", input_price=1.0, output_price=1.0) for name in NAMES]
    router = SmartRouter(targets, clock=clock, random=lambda: chance, optimize_for=mode, exploration=0.0)
    for event in history:
        tell(router, clock, event)
    call = Call("hi", "m", user="ann")
    scores = {row.target: row.score for row in router.explain(call).rows}
    assert scores[router.route(call).target.name] <= 1.2 + 1e-9


@pytest.mark.parametrize("mode", MODES)
def test_hours_of_silence_hurt_nobody(mode):
    """A router that was not asked for a year chooses as before."""
    clock = ManualClock(1000.0)
    targets = [Target(name, "p", "m", input_price=1.0, output_price=1.0) for name in NAMES]
    router = SmartRouter(targets, clock=clock, random=Random(1).random, optimize_for=mode)
    for name in NAMES:
        tell(router, clock, (name, "ok", 1.0, 1.0, 100, 1.0))
    clock.advance(3e7)
    tell(router, clock, ("a", "server", 1.0, 1.0, 100, 1.0))
    assert len(router.route(Call("hi", "m")).order) == 4
