"""How well circuit breakers decide: simulated traffic on a virtual clock, the same random numbers for everybody.

For each scenario: openings while the target was healthy, per 10,000 healthy calls; how many calls of an episode were
let through until the circuit opened (the median episode; "-": most were never noticed); how many bad calls were let
through in all; and how many good calls were lost, in percent of all good ones.

Peers take part where they are installed (pybreaker, circuitbreaker, purgatory, aiobreaker, hyx), with five failures and
60 s as the others. They see errors only. "one z > 2.5" is the naive breaker: running mean and variance of latency, open
as soon as one answer is 2.5 standard deviations late.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import exp, sqrt
from types import SimpleNamespace
from typing import Any, Protocol
from unittest.mock import patch

from llmkit_plugins.plugins.circuit_breaker import CircuitBreaker
from llmkit_plugins.testing import ManualClock

try:
    import aiobreaker
    import circuitbreaker
    import hyx.circuitbreaker as hyx
    import purgatory
    import purgatory.domain.model
    import pybreaker
except ImportError as missing:
    PEERS = False
    print(f"without peers: {missing}")
else:
    PEERS = True

CALLS_PER_SECOND = 10
FAILURES, OPEN_SECONDS = 5, 60.0
MEDIAN_SECONDS = 0.8


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call would meet, if it were let through."""

    seconds: float
    kind: str | None = None
    retry_after: float | None = None
    sick: bool = False
    """Whether the target is unhealthy at this moment, so that staying away is right."""


class Failure(Exception):
    """What the target answers with."""


class Contender(Protocol):
    """A circuit breaker in the simulation."""

    def offer(self, outcome: Outcome) -> bool:
        """Whether the call is let through, and then its outcome recorded."""


class Ours:
    """The breaker of this package."""

    def __init__(self, clock: ManualClock, make: Callable[..., CircuitBreaker], seed: int) -> None:
        self.breaker = make("target", clock=clock, random=random.Random(seed).random)

    def offer(self, outcome: Outcome) -> bool:
        permit = self.breaker.acquire()
        if permit is None:
            return False
        if outcome.kind is None:
            self.breaker.record_success(outcome.seconds, permit=permit)
        else:
            self.breaker.record_failure(outcome.kind, outcome.seconds, retry_after=outcome.retry_after, permit=permit)
        return True


class OneZ:
    """Running mean and variance of latency; open when one answer is late, or after five failures."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.mean = self.variance = 0.0
        self.seen = self.failures = 0
        self.until = 0.0

    def offer(self, outcome: Outcome) -> bool:
        if self.clock() < self.until:
            return False
        self.failures = 0 if outcome.kind is None else self.failures + 1
        late = outcome.kind is None and self.is_late(outcome.seconds)
        if late or self.failures >= FAILURES:
            self.until, self.failures = self.clock() + OPEN_SECONDS, 0
        return True

    def is_late(self, seconds: float) -> bool:
        deviation = seconds - self.mean
        late = self.seen > 30 and deviation > 2.5 * sqrt(self.variance)
        self.seen += 1
        if not late:
            gain = max(0.02, 1 / self.seen)
            self.mean += gain * deviation
            self.variance = (1 - gain) * (self.variance + gain * deviation * deviation)
        return late


class Peer:
    """A breaker that calls a function and raises something of its own instead when it is open."""

    def __init__(self, call: Callable[[Callable[[], None]], Any], refusal: type[Exception]) -> None:
        self.call, self.refusal = call, refusal

    def offer(self, outcome: Outcome) -> bool:
        def target() -> None:
            if outcome.kind is not None:
                raise Failure

        try:
            self.call(target)
        except Failure:
            return True
        except self.refusal as error:
            # pybreaker and aiobreaker raise it in place of the failure that opened the circuit
            return isinstance(error.__cause__ or error.__context__, Failure)
        return True


def virtual_datetime(clock: ManualClock) -> Any:
    """What a module knows as ``datetime``, on *clock*."""

    class Virtual(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2024, 1, 1, tzinfo=tz or None) + timedelta(seconds=clock())

        @classmethod
        def utcnow(cls) -> datetime:
            return datetime(2024, 1, 1) + timedelta(seconds=clock())

    return Virtual


def run(coroutine: Any) -> Any:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("it waits")


def peers(clock: ManualClock, time_travel: ExitStack) -> dict[str, Contender]:
    """The peers, made to live on *clock*."""
    now = virtual_datetime(clock)
    for place, value in {
        "pybreaker.datetime": now,
        "aiobreaker.state.datetime": now,
        "aiobreaker.circuitbreaker.datetime": now,
        "hyx.circuitbreaker.states.datetime": now,
        "circuitbreaker.monotonic": clock,
        "purgatory.domain.model.time": SimpleNamespace(time=clock),
    }.items():
        time_travel.enter_context(patch(place, value))
    py = pybreaker.CircuitBreaker(fail_max=FAILURES, reset_timeout=OPEN_SECONDS)
    aio = aiobreaker.CircuitBreaker(fail_max=FAILURES, timeout_duration=timedelta(seconds=OPEN_SECONDS))
    circuit = circuitbreaker.CircuitBreaker(failure_threshold=FAILURES, recovery_timeout=OPEN_SECONDS, name="target")
    guarded = circuit(lambda target: target())
    purged = purgatory.SyncCircuitBreakerFactory(default_threshold=FAILURES, default_ttl=OPEN_SECONDS)
    consecutive = hyx.consecutive_breaker(failure_threshold=FAILURES, recovery_time_secs=OPEN_SECONDS)

    def call_purgatory(target: Callable[[], None]) -> None:
        with purged.get_breaker("target"):
            target()

    def call_hyx(target: Callable[[], None]) -> None:
        async def atarget() -> None:
            target()

        run(consecutive(atarget)())

    from hyx.circuitbreaker.exceptions import BreakerFailing

    return {
        "pybreaker": Peer(py.call, pybreaker.CircuitBreakerError),
        "aiobreaker": Peer(aio.call, aiobreaker.CircuitBreakerError),
        "circuitbreaker": Peer(guarded, circuitbreaker.CircuitBreakerError),
        "purgatory": Peer(call_purgatory, purgatory.domain.model.OpenedState),
        "hyx": Peer(call_hyx, BreakerFailing),
    }


def contenders(clock: ManualClock, seed: int, time_travel: ExitStack) -> dict[str, Contender]:
    """Everybody, fresh."""
    ours: dict[str, Contender] = {
        "production": Ours(clock, CircuitBreaker.production, seed),
        "aggressive": Ours(clock, CircuitBreaker.aggressive, seed),
        "conservative": Ours(clock, CircuitBreaker.conservative, seed),
        "one z > 2.5": OneZ(clock),
    }
    return {**ours, **(peers(clock, time_travel) if PEERS else {})}


Traffic = Iterator[Outcome]
Scenario = Callable[[random.Random], Traffic]
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    """Enter a scenario under its name."""

    def enter(made: Scenario) -> Scenario:
        SCENARIOS[name] = made
        return made

    return enter


def healthy(rng: random.Random, seconds: float, sigma: float = 0.4, errors: float = 0.002) -> Traffic:
    """A target as it usually is: log-normal latency, an error now and then."""
    for _ in range(int(seconds * CALLS_PER_SECOND)):
        latency = MEDIAN_SECONDS * exp(rng.gauss(0, sigma))
        yield Outcome(latency, "server" if rng.random() < errors else None)


def failing(rng: random.Random, seconds: float, rate: float = 1.0) -> Traffic:
    """A target that fails quickly, at a rate."""
    for _ in range(int(seconds * CALLS_PER_SECOND)):
        failed = rng.random() < rate
        latency = 0.05 if failed else MEDIAN_SECONDS * exp(rng.gauss(0, 0.4))
        yield Outcome(latency, "server" if failed else None, sick=True)


def slower(rng: random.Random, seconds: float, factor: Callable[[float], float]) -> Traffic:
    """A target whose latency is a multiple of what it was."""
    for number in range(int(seconds * CALLS_PER_SECOND)):
        times = factor(number / CALLS_PER_SECOND)
        yield Outcome(times * MEDIAN_SECONDS * exp(rng.gauss(0, 0.4)), sick=times > 1.5)


@scenario("sudden outage (130 s)")
def outage(rng: random.Random) -> Traffic:
    """Everything fails for two minutes."""
    yield from healthy(rng, 300)
    yield from failing(rng, 130)
    yield from healthy(rng, 400)


@scenario("brown-out (20 % errors, 300 s)")
def brown_out(rng: random.Random) -> Traffic:
    """Every fifth call fails for five minutes."""
    yield from healthy(rng, 300)
    yield from failing(rng, 300, 0.2)
    yield from healthy(rng, 400)


@scenario("latency ×3 (300 s)")
def three_times(rng: random.Random) -> Traffic:
    """Every answer takes three times as long for five minutes."""
    yield from healthy(rng, 300)
    yield from slower(rng, 300, lambda _: 3.0)
    yield from healthy(rng, 400)


@scenario("slow drift (×2 a minute, 5 min)")
def drift(rng: random.Random) -> Traffic:
    """Latency doubles each minute for five minutes."""
    yield from healthy(rng, 300)
    yield from slower(rng, 300, lambda second: 2 ** (second / 60))
    yield from healthy(rng, 400)


@scenario("healthy, heavy tails (sigma 1)")
def heavy_tails(rng: random.Random) -> Traffic:
    """Nothing is wrong; answers are log-normal with a sigma of 1."""
    yield from healthy(rng, 1000, sigma=1.0)


@scenario("healthy, 0.5 % take 20 times as long")
def stragglers(rng: random.Random) -> Traffic:
    """Nothing is wrong; a straggler now and then."""
    for outcome in healthy(rng, 1000):
        yield Outcome(outcome.seconds * 20, outcome.kind) if rng.random() < 0.005 else outcome


@scenario("bursts of 429 (3 s a minute)")
def bursts(rng: random.Random) -> Traffic:
    """Capacity is used up for three seconds of each minute, in which two of three calls are turned away."""
    for number, outcome in enumerate(healthy(rng, 900)):
        second = number / CALLS_PER_SECOND % 60
        turned_away = second >= 57 and rng.random() < 0.67
        yield Outcome(0.05, "rate_limit", retry_after=60 - second) if turned_away else outcome


@scenario("recovery (10 s outage, 300 s after)")
def recovery(rng: random.Random) -> Traffic:
    """A short outage: what counts is how soon the healed target is used again."""
    yield from healthy(rng, 300)
    yield from failing(rng, 10)
    yield from healthy(rng, 300)


@scenario("flapping (20 s down, 40 s up, 15 min)")
def flapping(rng: random.Random) -> Traffic:
    """Down and up again, fifteen times."""
    yield from healthy(rng, 300)
    for _ in range(15):
        yield from failing(rng, 20)
        yield from healthy(rng, 40)


@dataclass
class Score:
    """What a contender did in a scenario."""

    good: int = 0
    lost: int = 0
    bad_admitted: int = 0
    false_trips: int = 0
    delays: list[int | None] = field(default_factory=list)
    """Bad calls let through in each episode until the circuit opened; None where it never did."""

    def add(self, others: Score) -> None:
        """Add up over seeds."""
        self.good += others.good
        self.lost += others.lost
        self.bad_admitted += others.bad_admitted
        self.false_trips += others.false_trips
        self.delays += others.delays

    def row(self) -> str:
        """As a line of the table."""
        noticed = sorted(delay for delay in self.delays if delay is not None)
        most = len(noticed) * 2 > len(self.delays)
        delay = f"{statistics.median_low(noticed)}" if most else "-" if self.delays else ""
        false = 1e4 * self.false_trips / (self.good - self.lost) if self.good > self.lost else 0.0
        return f"{false:12.1f} {delay:>12} {self.bad_admitted:14d} {100 * self.lost / self.good:12.2f}"


class Judge:
    """Watches one contender through one scenario."""

    def __init__(self, contender: Contender) -> None:
        self.contender, self.score = contender, Score()
        self.sick = self.refused = self.opened = False
        self.let_through = 0
        self.calls_since_healed = CALLS_PER_SECOND
        """What opens a circuit right after an episode is still the episode."""

    def see(self, outcome: Outcome) -> None:
        """Offer a call, and take note of what happens."""
        if outcome.sick != self.sick:
            self.turn(outcome.sick)
        admitted = self.contender.offer(outcome)
        if outcome.sick:
            self.score.bad_admitted += admitted
            self.let_through += admitted and not self.opened
            self.opened = self.opened or not admitted
        else:
            self.calls_since_healed += 1
            self.score.good += outcome.kind is None
            self.score.lost += outcome.kind is None and not admitted
            opens = not admitted and not self.refused
            self.score.false_trips += opens and self.calls_since_healed > CALLS_PER_SECOND
        self.refused = not admitted

    def turn(self, sick: bool) -> None:
        """The target falls ill, or has healed."""
        if not sick:
            self.score.delays.append(self.let_through if self.opened else None)
        self.sick, self.let_through, self.opened, self.calls_since_healed = sick, 0, self.refused, 0


def play(made: Scenario, seed: int) -> dict[str, Score]:
    """One scenario with one seed, for everybody."""
    clock = ManualClock()
    with ExitStack() as time_travel:
        judges = {name: Judge(contender) for name, contender in contenders(clock, seed, time_travel).items()}
        for outcome in made(random.Random(seed)):
            clock.advance(1 / CALLS_PER_SECOND)
            for judge in judges.values():
                judge.see(outcome)
    return {name: judge.score for name, judge in judges.items()}


def main() -> None:
    """Play everything and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    seeds = 2 if given.quick else given.seeds
    for name, made in SCENARIOS.items():
        totals: dict[str, Score] = {}
        for seed in range(seeds):
            for contender, score in play(made, seed).items():
                totals.setdefault(contender, Score()).add(score)
        print(f"\n{name}\n{'':18}{'false/10,000':>12} {'calls until':>12} {'bad let through':>14} {'good lost %':>11}")
        for contender, score in totals.items():
            print(f"  {contender:16}{score.row()}")


if __name__ == "__main__":
    main()
