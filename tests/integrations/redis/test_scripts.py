"""What the scripts do, beside the simplest model there is, at times that the test sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmkit_plugins.plugins.rate_limiter.rate import Rate
from llmkit_plugins.stores import redis as module
from llmkit_plugins.stores.redis import Claim, RedisStore, Reply

START = 4_102_444_800  # in the year 2100: no key expires by the clock of the real Redis meanwhile
RATES = {"a": Rate(3, 3, 3.0), "b": Rate(7, 5, 49.0), "c": Rate(1, 1.5, 20.0)}
PERMITS = {"p": 1, "q": 2}
LEASE = 40


@dataclass
class Model:
    """Buckets that are filled as time goes by, and permits that are held until a time."""

    now: int = START
    tokens: dict[str, Fraction] = field(default_factory=lambda: {name: Fraction(r.burst) for name, r in RATES.items()})
    held: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in PERMITS})

    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        for name, rate in RATES.items():
            self.give(name, Fraction(seconds) / Fraction(rate.interval))
        for holders in self.held.values():
            for holder in [holder for holder, until in holders.items() if until <= self.now]:
                del holders[holder]

    def give(self, name: str, tokens: Fraction) -> None:
        self.tokens[name] = min(self.tokens[name] + tokens, Fraction(RATES[name].burst))

    def take(
        self, wanted: dict[str, Fraction], permits: list[str], holder: str, patience: int
    ) -> tuple[bool, Fraction]:
        """Whether it is taken, and the wait; what permits have to be waited for is guessed to be 0 seconds."""
        waits = [(amount - self.tokens[name]) * Fraction(RATES[name].interval) for name, amount in wanted.items()]
        wait = max([*waits, Fraction(0)])
        if wait > patience or (not wait and any(len(self.held[name]) >= PERMITS[name] for name in permits)):
            return False, wait
        for name, amount in wanted.items():
            self.tokens[name] -= amount
        if not wait:
            for name in permits:
                self.held[name][holder] = self.now + LEASE
        return True, wait


@pytest.fixture
def at(monkeypatch):
    """Lets it be a time there."""
    scripts = {name: getattr(module, name) for name in ("TAKE", "SHIFT")}

    def at(now: int) -> None:
        for name, script in scripts.items():
            assert script.count("redis.call('TIME')") == 1
            monkeypatch.setattr(module, name, script.replace("redis.call('TIME')", f"{{'{now}', '0'}}"))

    return at


amounts = st.dictionaries(st.sampled_from(sorted(RATES)), st.sampled_from([0, 1, 1, 1, Fraction(3, 2), 2]), max_size=3)
takes = st.tuples(st.just("take"), amounts, st.lists(st.sampled_from(sorted(PERMITS)), unique=True), st.integers(0, 30))
shifts = st.tuples(st.just("shift"), st.sampled_from(sorted(RATES)), st.integers(-4, 4))
releases = st.tuples(st.just("release"), st.integers(0, 30))
passes = st.tuples(st.just("pass"), st.integers(1, 60))


@given(st.lists(takes | takes | shifts | releases | passes, max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_they_do_what_the_model_does(server, at, steps):
    """All or none, exact waits, taken in advance, given back, debts, permits and their leases."""
    server.client.flushall()
    store = RedisStore(server.url, timeout_seconds=5.0)
    try:
        _walk(store, at, steps)
    finally:
        store.flush(5.0)
    assert store.failures == 0


def _walk(store: RedisStore, at: Callable[[int], None], steps: list[Any]) -> None:
    model = Model()
    for number, step in enumerate(steps):
        at(model.now)
        match step:
            case ("take", wanted, permits, patience):
                claims = [Claim(name, LEASE, PERMITS[name], 0.0, str(number)) for name in permits]
                claims += [_claim(name, float(amount)) for name, amount in wanted.items()]
                taken, wait = model.take(wanted, permits, str(number), patience)
                reply = store.take(claims, patience) if claims else Reply(taken=True)
                assert (reply.taken, reply.seconds) == (taken, pytest.approx(float(wait), abs=1e-5))
            case ("shift", name, amount):
                store.shift([_claim(name, amount)])
                model.give(name, Fraction(-amount))
            case ("release", holder):
                store.shift([Claim(name, LEASE, 0, 0.0, str(holder)) for name in PERMITS])
                for holders in model.held.values():
                    holders.pop(str(holder), None)
            case ("pass", seconds):
                model.pass_time(seconds)


def _claim(name: str, amount: float) -> Claim:
    rate = RATES[name]
    return Claim(name, amount * rate.interval, rate.depth, rate.fill)
