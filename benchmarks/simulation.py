"""Calls of a trace against simulated providers that queue, drift, have brown-outs and prices, in simulated time.

Chance belongs to the call and the provider, not to the order of events: every policy meets the same dice.
"""

from __future__ import annotations

import csv
import heapq
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import exp, pi, sin
from pathlib import Path
from random import Random
from typing import Protocol

from llmkit_plugins import Target

FAILURE_SECONDS = 0.2
"""How soon a server error comes."""

TIMEOUT_SECONDS = 60.0
"""When a client gives up."""

MOST_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Request:
    """One line of a trace."""

    number: int
    at: float
    input_tokens: int
    output_tokens: int


def read_trace(path: Path) -> list[Request]:
    """A CSV with the columns ``TIMESTAMP,ContextTokens,GeneratedTokens``, as Azure publishes them."""
    with path.open(newline="") as file:
        rows = [(datetime.fromisoformat(row["TIMESTAMP"][:26]), row) for row in csv.DictReader(file)]
    began = min(at for at, _ in rows)
    rows.sort(key=lambda row: row[0])
    return [
        Request(number, (at - began).total_seconds(), int(row["ContextTokens"]), max(1, int(row["GeneratedTokens"])))
        for number, (at, row) in enumerate(rows)
    ]


def synthetic_trace(seconds: float = 3600.0, rate: float = 5.4, seed: int = 1) -> list[Request]:
    """The shape of Azure's conversations of 2023: context p50 1,020 and p95 4,083 tokens, answers 129 and 451, and
    bursts."""
    random = Random(seed)
    requests: list[Request] = []
    at = 0.0
    while True:
        burst = 3.0 if at % 300.0 < 20.0 else 0.87
        at += random.expovariate(rate * burst)
        if at >= seconds:
            return requests
        context = min(16_000, int(1020 * exp(random.gauss(0.0, 0.843))) + 1)
        answer = min(2_000, int(129 * exp(random.gauss(0.0, 0.761))) + 1)
        requests.append(Request(len(requests), at, context, answer))


@dataclass(frozen=True, slots=True)
class BrownOut:
    """From *begins* to *ends* the provider is *slower* by that factor, fails with *failing*, and has *slots* of its
    slots."""

    begins: float
    ends: float
    slower: float = 1.0
    failing: float = 0.0
    slots: float = 1.0


CALM = BrownOut(0.0, float("inf"))


@dataclass(frozen=True, slots=True)
class Provider:
    """How one provider behaves. Prices are USD per million tokens."""

    name: str
    first_seconds: float
    prefill_per_second: float
    seconds_per_token: float
    slots: int
    failing: float
    input_price: float
    output_price: float
    spread: float = 0.3
    drift: float = 0.2
    drift_seconds: float = 1500.0
    brown_outs: tuple[BrownOut, ...] = ()

    @property
    def target(self) -> Target:
        """It as the plugins know it."""
        return Target(self.name, self.name, "m", input_price=self.input_price, output_price=self.output_price)

    def brown_out(self, now: float) -> BrownOut:
        """The one there is now, else none."""
        return next((one for one in self.brown_outs if one.begins <= now < one.ends), CALM)

    def slowness(self, now: float) -> float:
        """How much slower than usual it is now."""
        return exp(self.drift * sin(2 * pi * now / self.drift_seconds)) * self.brown_out(now).slower

    def first_chunk(self, request: Request, now: float) -> float:
        """Seconds to the first chunk, on average, once it is worked on."""
        return (self.first_seconds + request.input_tokens / self.prefill_per_second) * self.slowness(now)

    def per_token(self, now: float) -> float:
        """Seconds for each token of the answer, on average."""
        return self.seconds_per_token * self.slowness(now)

    def failure_rate(self, now: float) -> float:
        """How likely an attempt fails."""
        return max(self.failing, self.brown_out(now).failing)

    def cost(self, request: Request) -> float:
        """USD of an answer to *request*."""
        return (request.input_tokens * self.input_price + request.output_tokens * self.output_price) / 1e6


@dataclass(slots=True)
class Try:
    """One attempt: when it was sent, first spoke (None: never) and ended, and what failed."""

    request: Request
    place: int
    number: int
    sent: float
    first_chunk: float | None
    ended: float
    failed: str | None


class Site:
    """A provider at work: which of its slots are free when."""

    def __init__(self, provider: Provider, place: int, seed: int) -> None:
        self.provider, self.place, self._seed = provider, place, seed
        self._free = [0.0] * provider.slots

    def wait(self, now: float) -> float:
        """Seconds until a slot is free."""
        slots = max(1, int(self.provider.slots * self.provider.brown_out(now).slots))
        return max(0.0, heapq.nsmallest(self.provider.slots - slots + 1, self._free)[-1] - now)

    def send(self, request: Request, number: int, now: float) -> Try:
        """Work on *request*, in the order they come."""
        dice = Random(f"{self._seed}/{request.number}/{self.place}/{number}")
        provider, spread = self.provider, self.provider.spread
        begins, gives_up = now + self.wait(now), now + TIMEOUT_SECONDS
        if dice.random() < provider.failure_rate(now):
            return Try(request, self.place, number, now, None, now + FAILURE_SECONDS, "server")
        first, rest = (exp(dice.gauss(-spread * spread / 2, spread)) for _ in range(2))
        first_chunk = begins + provider.first_chunk(request, begins) * first
        ends = first_chunk + provider.per_token(begins) * rest * request.output_tokens
        if begins < gives_up:
            heapq.heapreplace(self._free, ends)
        if ends > gives_up:
            return Try(request, self.place, number, now, None, gives_up, "timeout")
        return Try(request, self.place, number, now, first_chunk, ends, None)


class Policy(Protocol):
    """Chooses, and is told how it went."""

    def choose(self, request: Request, places: Sequence[int], now: float) -> int:
        """One of *places*; those of the request's earlier attempts are not among them."""

    def sent(self, attempt: Try) -> None:
        """The attempt is under way (its end is not to be looked at)."""

    def ended(self, attempt: Try) -> None:
        """The attempt has ended."""


@dataclass(slots=True)
class Result:
    """What a policy reached."""

    latencies: list[float] = field(default_factory=list)
    """Seconds from each request to the end of its answer, failed attempts included."""
    cost: float = 0.0
    errors: int = 0
    """Attempts that failed."""

    @property
    def mean(self) -> float:
        return statistics.fmean(self.latencies)

    @property
    def p95(self) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * 0.95)]


def simulate(
    policy_of: Callable[[Sequence[Site]], Policy], trace: Sequence[Request], providers: Sequence[Provider], seed: int
) -> Result:
    """Play *trace* through a policy; a failed attempt is made again elsewhere, up to three in all."""
    sites = [Site(provider, place, seed) for place, provider in enumerate(providers)]
    policy, result = policy_of(sites), Result()
    events: list[tuple[float, int, Try | None, Request]] = [(each.at, each.number, None, each) for each in trace]
    tried: dict[int, list[int]] = {}
    while events:
        now, _, attempt, request = heapq.heappop(events)
        if attempt is not None and _is_over(policy, attempt, providers, result):
            result.latencies.append(now - request.at)
            continue
        before = tried.setdefault(request.number, [])
        place = policy.choose(request, [place for place in range(len(sites)) if place not in before], now)
        before.append(place)
        attempt = sites[place].send(request, len(before), now)
        policy.sent(attempt)
        heapq.heappush(events, (attempt.ended, len(trace) + 3 * request.number + len(before), attempt, request))
    return result


def _is_over(policy: Policy, attempt: Try, providers: Sequence[Provider], result: Result) -> bool:
    """Tell of the end of *attempt*; whether it was the last of its request."""
    policy.ended(attempt)
    if attempt.failed is None:
        result.cost += providers[attempt.place].cost(attempt.request)
        return True
    result.errors += 1
    return attempt.number == MOST_ATTEMPTS


PROVIDERS = (
    Provider("swift", 0.25, 12_000, 0.008, 10, 0.005, 2.50, 10.0, drift_seconds=1500.0),
    Provider("steady", 0.45, 8_000, 0.014, 24, 0.002, 1.25, 5.00, drift_seconds=2100.0),
    Provider("flaky", 0.30, 10_000, 0.010, 16, 0.030, 0.80, 3.20, drift_seconds=1100.0),
    Provider("thrifty", 0.80, 4_000, 0.025, 60, 0.010, 0.15, 0.60, drift_seconds=1700.0),
)
"""Fast, dear and small; slower and reliable; fast, cheaper and unreliable; slow, cheap and large."""

BROWN_OUTS = {
    "swift": BrownOut(900.0, 1200.0, slower=6.0),
    "flaky": BrownOut(1800.0, 2100.0, failing=0.6),
    "thrifty": BrownOut(2400.0, 2700.0, slots=0.15),
}
"""What happens to them in the hour: one slows down, one fails, one loses most of its capacity."""

WITH_BROWN_OUTS = tuple(
    replace(provider, brown_outs=(BROWN_OUTS[provider.name],)) if provider.name in BROWN_OUTS else provider
    for provider in PROVIDERS
)
