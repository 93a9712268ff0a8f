"""Threads that share a router lose nothing that matters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from llmkit_plugins import Attempt, Call, Target, Usage
from llmkit_plugins.plugins.router import SmartRouter
from llmkit_plugins.testing import ManualClock


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.parametrize("power_of_two_above", [0, 64])
def test_what_is_in_flight_is_exact(in_threads: Callable[..., list[Any]], power_of_two_above: int) -> None:
    """After four threads have made thousands of attempts nothing is in flight, and every number makes sense."""
    targets = [Target(name, "p", "m", input_price=1.0, output_price=1.0) for name in "abc"]
    router = SmartRouter(
        targets, clock=ManualClock(5.0), affinity="soft", affinity_chars=1, power_of_two_above=power_of_two_above
    )

    def caller(seed: int) -> Callable[[], int]:
        random = Random(seed)

        def run() -> int:
            for number in range(1500):
                call = Call(f"{number % 7} hello", "m", user=str(number % 50))
                attempt = Attempt(1, router.route(call).target, started=1.0)
                router.begin(attempt)
                attempt.first_chunk, attempt.finished = 1.0 + random.random(), 3.0 + random.random()
                attempt.outcome = random.choice(["ok", "ok", "ok", "error", "cancelled"])
                attempt.usage, attempt.kind = Usage(10, 10), random.choice(["server", "timeout", "rate_limit"])
                router.record(attempt, call)
                router.stats()
            return 1500

        return run

    assert in_threads(*[caller(seed) for seed in range(4)]) == [1500] * 4
    for stats in router.stats().values():
        assert stats.in_flight == 0
        assert 0.0 < stats.success_rate < 1.0
        assert 0.0 < stats.first_chunk_seconds < 10.0
