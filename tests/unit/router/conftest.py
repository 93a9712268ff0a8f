"""A router on a manual clock, attempts that take as long as they are told to, and traffic in simulated time."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import exp
from random import Random
from typing import Any

import pytest

from llmkit_plugins import Attempt, Call, Target, Usage
from llmkit_plugins.plugins.router import SmartRouter
from llmkit_plugins.testing import ManualClock

TOKENS = 100


@dataclass(frozen=True)
class Behaviour:
    """How a target behaves: seconds to the first chunk and per token (with a spread), and how often it fails."""

    first: float = 0.5
    token: float = 0.005
    failing: float = 0.0
    spread: float = 0.3


Behaviours = Callable[[str, float], Mapping[str, float]]
"""That of the target of some name at some time, as far as it is not the usual one."""


@dataclass
class Lab:
    """A router with targets ``a``, ``b`` …, and what is needed to teach it."""

    router: SmartRouter
    clock: ManualClock
    random: Random
    routed: list[tuple[float, str]] = field(default_factory=list)
    """When a first attempt went where."""

    def __getitem__(self, name: str) -> Target:
        return next(target for target in self.router.targets if target.name == name)

    def begin(self, name: str) -> Attempt:
        """An attempt at the target called *name* is under way."""
        attempt = Attempt(1, self[name], started=self.clock())
        self.router.begin(attempt)
        return attempt

    def end(
        self,
        attempt: Attempt,
        *,
        first: float | None = 0.5,
        seconds: float = 1.0,
        usage: Usage | None = None,
        call: Call | None = None,
    ) -> None:
        """It was answered: began *first* seconds after it was sent (None: it was not streamed) and took *seconds*."""
        assert attempt.started is not None
        attempt.first_chunk = None if first is None else attempt.started + first
        attempt.finished = attempt.started + seconds
        attempt.outcome, attempt.usage = "ok", usage or Usage(200, TOKENS)
        self.router.record(attempt, call or Call("hi", "m"))

    def answer(self, name: str, times: int = 1, **how: Any) -> None:
        """The target called *name* answers, one call after the other."""
        for _ in range(times):
            attempt = self.begin(name)
            self.clock.advance(how.get("seconds", 1.0))
            self.end(attempt, **how)

    def fail(self, name: str, times: int = 1, kind: Any = "server", retry_after: float | None = None) -> None:
        """The target called *name* fails, one call after the other."""
        for _ in range(times):
            attempt = self.begin(name)
            self.clock.advance(0.1)
            attempt.finished, attempt.outcome = self.clock(), "error"
            attempt.kind, attempt.retry_after = kind, retry_after
            self.router.record(attempt)

    def teach(self, times: int = 12, **seconds: float) -> None:
        """Each target answers in so many *seconds*, half of them until the first chunk; in turn."""
        for _ in range(times):
            for name, each in seconds.items():
                self.answer(name, first=each / 2, seconds=each)

    def shares(self, times: int = 200, call: Call | None = None) -> Counter[str]:
        """How often each target is first, when nothing is sent there."""
        return Counter(self.router.route(call or Call("hi", "m")).target.name for _ in range(times))

    def traffic(self, rate: float, until: float, behaviours: Behaviours) -> None:
        """Calls come at random, *rate* a second, until a time; each goes where the router says, once."""
        serial, call_at = count(), self.clock() + self.random.expovariate(rate)
        under_way: list[tuple[float, int, Attempt, Call]] = []
        while min(call_at, under_way[0][0] if under_way else call_at) < until:
            if under_way and under_way[0][0] <= call_at:
                self.clock.now, _, attempt, call = heapq.heappop(under_way)
                self.router.record(attempt, call)
                continue
            self.clock.now = call_at
            call_at += self.random.expovariate(rate)
            call = Call("hi", "m")
            attempt = Attempt(1, self.router.route(call).target, started=self.clock())
            self.routed.append((self.clock(), attempt.target.name))
            self.router.begin(attempt)
            self._decide_fate(attempt, Behaviour(**behaviours(attempt.target.name, self.clock())))
            heapq.heappush(under_way, (attempt.finished or 0.0, next(serial), attempt, call))

    def part(self, name: str, begin: float, end: float) -> float:
        """The part of the calls between two times that went to the target called *name*."""
        went = [to for at, to in self.routed if begin <= at < end]
        return went.count(name) / len(went)

    def _decide_fate(self, attempt: Attempt, behaviour: Behaviour) -> None:
        assert attempt.started is not None
        if self.random.random() < behaviour.failing:
            attempt.finished, attempt.outcome, attempt.kind = attempt.started + 0.2, "error", "server"
            return
        tokens = max(2, int(TOKENS * exp(self.random.gauss(0.0, 0.5))))
        first, rest = (exp(self.random.gauss(0.0, behaviour.spread)) for _ in range(2))
        attempt.first_chunk = attempt.started + behaviour.first * first
        attempt.finished = attempt.first_chunk + behaviour.token * tokens * rest
        attempt.outcome, attempt.usage = "ok", Usage(200, tokens)


@pytest.fixture
def lab() -> Callable[..., Lab]:
    """Makes a lab: ``lab("abc", prices={"a": (1, 2)}, optimize_for="cost")``. Exploration is off unless asked for."""

    def make(
        names: Sequence[str] = "abc",
        *,
        prices: Mapping[str, tuple[float, float]] | None = None,
        seed: int = 1,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> Lab:
        clock, random = ManualClock(1000.0), Random(seed)
        priced = {name: {"input_price": i, "output_price": o} for name, (i, o) in (prices or {}).items()}
        extra = options or {}
        targets = [Target(n, f"p-{n}", "m", **{**priced.get(n, {}), **extra.get(n, {})}) for n in names]
        router = SmartRouter(targets, clock=clock, random=random.random, **{"exploration": 0.0, **settings})
        return Lab(router, clock, random)

    return make
