"""A breaker on a clock moved by hand, without jitter unless a test wants it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmkit_plugins.plugins.circuit_breaker import CircuitBreaker, State
from llmkit_plugins.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands at a moment that is nobody's zero."""
    return ManualClock(1000.5)


@pytest.fixture
def make(clock: ManualClock) -> Callable[..., CircuitBreaker]:
    """Makes a breaker: ``make(z_score=2.0)``. Its open times have no jitter."""

    def breaker(**options: Any) -> CircuitBreaker:
        return CircuitBreaker("target", **{"clock": clock, "random": lambda: 0.0, **options})

    return breaker


@pytest.fixture
def in_state(make: Callable[..., CircuitBreaker], clock: ManualClock) -> Callable[..., CircuitBreaker]:
    """Makes a breaker that has come to a state by itself: ``in_state(State.OPEN)``."""

    def breaker(state: State, **options: Any) -> CircuitBreaker:
        made = make(**options)
        if state is not State.CLOSED:
            for _ in range(made.config.consecutive_failures):
                made.record_failure("server")
        if state is State.HALF_OPEN:
            clock.advance(made.config.open_seconds)
        assert made.state is state
        return made

    return breaker


@pytest.fixture
def healthy() -> Callable[..., None]:
    """Records answers close to 100 ms: ``healthy(breaker, 100)``."""

    def record(breaker: CircuitBreaker, answers: int = 100, seconds: float = 0.1) -> None:
        for number in range(answers):
            breaker.record_success(seconds * (0.95 + 0.01 * (number * 7 % 11)))

    return record
