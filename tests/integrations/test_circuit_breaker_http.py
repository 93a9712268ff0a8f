"""The circuit breaker over real HTTP: three providers, one fails, one becomes slow, both heal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from llmkit_plugins import Call, LLMKit, Target, hookimpl
from llmkit_plugins.plugins.circuit_breaker import CircuitBreakerPlugin, State
from llmkit_plugins.testing import FakeProvider
from llmkit_plugins.testing.fake_provider import Fault

MESSAGES = [{"role": "user", "content": "hi"}]
NAMES = ("a", "b", "c")
OPEN_SECONDS = 0.4


class InTurn:
    """Sends each call to the next target first."""

    def __init__(self) -> None:
        self.turn = 0

    @hookimpl
    def llmkit_route(self, call: Call, targets: Sequence[Target]) -> Sequence[Target]:
        if not call.attempts:
            self.turn += 1
        return [*targets[self.turn % len(targets) :], *targets[: self.turn % len(targets)]]


@pytest.fixture
def providers() -> Iterator[dict[str, FakeProvider]]:
    made = {name: FakeProvider(first_token_seconds=0.005) for name in NAMES}
    for provider in made.values():
        provider.start()
    yield made
    for provider in made.values():
        provider.close()


@pytest.fixture
def kit() -> LLMKit:
    breaker = CircuitBreakerPlugin(open_seconds=OPEN_SECONDS, max_open_seconds=OPEN_SECONDS, ramp_seconds=0.0)
    return LLMKit([InTurn(), breaker], [Target(name, name, "model") for name in NAMES])


async def send(kit: LLMKit, backend: Any, number: int) -> None:
    if number % 2:
        await kit.acall(Call(MESSAGES), backend)
    else:
        async for _ in kit.astream(Call(MESSAGES), backend):
            pass


async def test_traffic_moves_away_and_comes_back(
    kit: LLMKit, providers: dict[str, FakeProvider], openai_backend: Any
) -> None:
    """No caller sees an error while a provider is down and then another one slow; each is used again once healed."""
    backend = openai_backend(**{name: provider.url for name, provider in providers.items()})
    breakers = kit.plugins["circuit_breaker"]
    for number in range(150):
        await send(kit, backend, number)
    await leaves(kit, backend, providers["a"], lambda p: p.fail_with(Fault("server_error")))
    await comes_back(kit, backend, providers["a"], breakers.breaker("a"))
    await leaves(kit, backend, providers["b"], lambda p: p.slow_down(first_token_seconds=0.25))
    await comes_back(kit, backend, providers["b"], breakers.breaker("b"))
    await backend.aclose()


async def leaves(kit: LLMKit, backend: Any, provider: FakeProvider, goes_bad: Any) -> None:
    """Within a handful of its calls, the traffic has left it."""
    goes_bad(provider)
    before = provider.stats.requests
    for number in range(60):
        await send(kit, backend, number)
        if provider.stats.requests - before > 10:
            break
    assert provider.stats.requests - before <= 10


async def comes_back(kit: LLMKit, backend: Any, provider: FakeProvider, breaker: Any) -> None:
    """Healed, it is closed again once its open time is over and some calls have come by."""
    provider.heal()
    until = time.monotonic() + 5.0
    while breaker.state is not State.CLOSED and time.monotonic() < until:
        await send(kit, backend, 1)
        await asyncio.sleep(0.01)
    before = provider.stats.requests
    for number in range(12):
        await send(kit, backend, number)
    assert provider.stats.requests - before >= 3
