"""Three providers of different price, speed and reliability, over real HTTP: each goal finds its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from random import Random
from typing import Any

import pytest

from llmkit_plugins import Call, LLMKit, Target
from llmkit_plugins.plugins.router import RouterPlugin
from llmkit_plugins.testing import FakeProvider
from llmkit_plugins.testing.fake_provider import Fault

PRICES = {"swift": 10.0, "steady": 2.0, "thrifty": 0.1}
PROMPT = [{"role": "user", "content": "What is special about forty-two? " * 40}]
CALLS, AT_ONCE = 120, 4


@pytest.fixture
def providers() -> Iterator[Mapping[str, FakeProvider]]:
    """Swift answers at once and fails one time in ten; thrifty is slow and fails as often; steady never fails."""
    behaviours: dict[str, dict[str, Any]] = {
        "swift": {"first_token_seconds": 0.001, "faults": [Fault("server_error", probability=0.1)]},
        "steady": {"first_token_seconds": 0.05},
        "thrifty": {"first_token_seconds": 0.15, "faults": [Fault("server_error", probability=0.1)]},
    }
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                FakeProvider(seed=seed, input_price=PRICES[name], output_price=PRICES[name], **each)
            )
            for seed, (name, each) in enumerate(behaviours.items())
        }


def kit_of(**settings: Any) -> LLMKit:
    """A kit that routes among the three. Each call may fail over as often as it has to."""
    router = RouterPlugin(random=Random(1).random, failover_floor=1000, **settings)
    targets = [Target(name, name, "m", input_price=price, output_price=price) for name, price in PRICES.items()]
    return LLMKit([router], targets, on_plugin_error="raise")


async def send(
    kit: LLMKit, backend: Any, calls: int, *, stream: bool, metadata: Mapping[str, Any] | None = None
) -> None:
    """Some calls, a few of them at once; all are answered."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with free:
            call = Call(PROMPT, "m", metadata=metadata or {})
            if not stream:
                await kit.acall(call, backend)
                return
            async for _ in kit.astream(call, backend):
                pass

    await asyncio.gather(*[one() for _ in range(calls)])


def answered(providers: Mapping[str, FakeProvider]) -> dict[str, int]:
    return {name: provider.stats.by_status.get(200, 0) for name, provider in providers.items()}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("goal", "best"), [("latency", "swift"), ("cost", "thrifty"), ("reliability", "steady")])
async def test_each_goal_finds_its_provider(
    providers: Mapping[str, FakeProvider], openai_backend: Any, goal: str, best: str, stream: bool
) -> None:
    """Most calls are answered by the provider that is best for the goal, and none fails."""
    backend = openai_backend(**{name: provider.url for name, provider in providers.items()})
    await send(kit_of(optimize_for=goal), backend, CALLS, stream=stream)
    await backend.aclose()
    assert sum(answered(providers).values()) == CALLS
    assert answered(providers)[best] > CALLS / 2


async def test_traffic_shifts_when_a_provider_breaks(
    providers: Mapping[str, FakeProvider], openai_backend: Any
) -> None:
    """When the cheapest stops answering, the next cheapest takes over, and hardly anybody asks the first one again."""
    backend = openai_backend(**{name: provider.url for name, provider in providers.items()})
    kit = kit_of(optimize_for="cost")
    await send(kit, backend, 40, stream=False)
    for provider in providers.values():
        provider.reset()
    providers["thrifty"].fail_with(Fault("overloaded"))
    await send(kit, backend, CALLS, stream=False)
    await backend.aclose()
    assert answered(providers)["steady"] > CALLS / 2
    assert providers["thrifty"].stats.requests < CALLS / 4


async def test_a_call_may_choose_for_itself(providers: Mapping[str, FakeProvider], openai_backend: Any) -> None:
    """Where the kit minds the cost, calls that are in a hurry say so and soon go to the swift one."""
    backend = openai_backend(**{name: provider.url for name, provider in providers.items()})
    kit, hurry = kit_of(optimize_for="cost"), {"route": {"optimize_for": "latency"}}
    await send(kit, backend, 20, stream=False)
    await send(kit, backend, CALLS, stream=False, metadata=hurry)
    before = answered(providers)["swift"]
    await send(kit, backend, CALLS, stream=False, metadata=hurry)
    await backend.aclose()
    assert answered(providers)["swift"] - before > CALLS / 2


async def test_what_it_predicts_is_what_providers_charge(
    providers: Mapping[str, FakeProvider], openai_backend: Any
) -> None:
    """After some calls, the predicted cost of one is what the provider itself counts for one."""
    backend = openai_backend(**{name: provider.url for name, provider in providers.items()})
    kit = kit_of(optimize_for="cost")
    await send(kit, backend, 60, stream=False)
    await backend.aclose()
    router = kit.plugins["router"].router
    predicted = router.route(Call(PROMPT, "m"), [target for target in kit.targets if target.name == "thrifty"])
    stats = providers["thrifty"].stats
    assert predicted.predicted_cost == pytest.approx(stats.cost / stats.by_status[200], rel=0.25)
