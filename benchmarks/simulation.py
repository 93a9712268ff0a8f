"""Calls of a trace against simulated providers that queue, drift, have brown-outs and prices; deterministic, in
simulated time.

Chance belongs to the call and the provider, not to the order of events: every policy meets the same dice.
"""

from __future__ import annotations

import csv
import heapq
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import exp, pi, sin
from pathlib import Path
from random import Random
from typing import Protocol

from llmkit_plugins import Target

FIRST_FAILURE_SECONDS = 0.2
"""How soon a server error comes."""
TIMEOUT_SECONDS = 60.0
"""When a client gives up."""


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
    """One attempt: when it was sent, first spoke and ended, and whether it failed."""

    request: Request
    place: int
    number: int
    sent: float
    first_chunk: float
    ended: float
    failed: bool
    timed_out: bool


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
        provider = self.provider
        begins = now + self.wait(now)
        gives_up = now + TIMEOUT_SECONDS
        if dice.random() < provider.failure_rate(now):
            ended = now + FIRST_FAILURE_SECONDS
            return Try(request, self.place, number, now, ended, ended, failed=True, timed_out=False)
        if begins >= gives_up:
            return Try(request, self.place, number, now, gives_up, gives_up, failed=True, timed_out=True)
        spread = provider.spread
        first = provider.first_chunk(request, begins) * exp(dice.gauss(-spread * spread / 2, spread))
        rest = provider.per_token(begins) * exp(dice.gauss(-spread * spread / 2, spread)) * request.output_tokens
        heapq.heapreplace(self._free, begins + first + rest)
        if begins + first + rest > gives_up:
            return Try(request, self.place, number, now, gives_up, gives_up, failed=True, timed_out=True)
        return Try(
            request, self.place, number, now, begins + first, begins + first + rest, failed=False, timed_out=False
        )


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
    """Seconds from the request to the end of its answer, failed attempts included."""
    cost: float = 0.0
    attempts: int = 0
    errors: int = 0
    """Attempts that failed."""
    unanswered: int = 0
    """Requests that failed at three providers."""
    shares: dict[int, int] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.latencies)

    @property
    def p95(self) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * 0.95)]


def simulate(
    policy_of: Callable[[Sequence[Site]], Policy],
    trace: Sequence[Request],
    providers: Sequence[Provider],
    seed: int = 7,
) -> Result:
    """Play *trace* through a policy; a failed attempt is made again elsewhere, twice at most."""
    sites = [Site(provider, place, seed) for place, provider in enumerate(providers)]
    policy, result = policy_of(sites), Result()
    places = list(range(len(sites)))
    events: list[tuple[float, int, Try | None, Request]] = [(r.at, r.number, None, r) for r in trace]
    heapq.heapify(events)
    tried: dict[int, list[int]] = {}
    serial = len(trace)
    while events:
        now, _, done, request = heapq.heappop(events)
        if done is not None:
            policy.ended(done)
            if not done.failed:
                result.latencies.append(now - request.at)
                result.cost += providers[done.place].cost(request)
                continue
            result.errors += 1
            if done.number == 3:
                result.unanswered += 1
                result.latencies.append(now - request.at)
                continue
        before = tried.setdefault(request.number, [])
        left = [place for place in places if place not in before]
        place = policy.choose(request, left, now)
        before.append(place)
        attempt = sites[place].send(request, len(before), now)
        result.attempts += 1
        result.shares[place] = result.shares.get(place, 0) + 1
        policy.sent(attempt)
        serial += 1
        heapq.heappush(events, (attempt.ended, serial, attempt, request))
    return result
