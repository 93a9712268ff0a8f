"""Three providers of different price, speed and reliability, over real HTTP: each goal finds its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from random import Random
from typing import Any

import openai
import pytest

from llmkit_plugins import Call, LLMKit, NoTarget, Target
from llmkit_plugins.plugins.router import RouterPlugin
from llmkit_plugins.testing import FakeProvider
from llmkit_plugins.testing.fake_provider import Fault

PRICES = {"swift": 10.0, "steady": 2.0, "thrifty": 0.1}
PROMPT = [{"role": "user", "content": "What is special about forty-two? " * 40}]
CALLS, AT_ONCE = 80, 8


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


@pytest.fixture
def sound(providers: Mapping[str, FakeProvider]) -> Mapping[str, FakeProvider]:
    """The three, none of which fails."""
    for provider in providers.values():
        provider.fail_with()
    return providers


@pytest.fixture
async def backend(providers: Mapping[str, FakeProvider], openai_backend: Any) -> AsyncIterator[Any]:
    """Sends to the three."""
    backend = openai_backend(**{name: provider.url for name, provider in providers.items()})
    yield backend
    await backend.aclose()


class Ahead:
    """The system's clock, which can be put forward."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.seconds


def kit_of(clock: Any = time.monotonic, **settings: Any) -> LLMKit:
    """A kit that routes among the three. Each call may fail over as often as it has to."""
    router = RouterPlugin(random=Random(1).random, **{"failover_floor": 1000, **settings})
    targets = [
        Target(name, name, "m", input_price=price, output_price=price, metadata={"tags": (name[0], name[:2])})
        for name, price in PRICES.items()
    ]
    return LLMKit([router], targets, clock=clock, on_plugin_error="raise")


async def send(
    kit: LLMKit,
    backend: Any,
    calls: int,
    *,
    stream: bool = False,
    prompts: Sequence[Any] = (PROMPT,),
    route: Mapping[str, Any] | None = None,
) -> list[Call]:
    """Some calls, a few of them at once; all are answered."""
    free = asyncio.Semaphore(AT_ONCE)
    metadata = {} if route is None else {"route": route}

    async def one(call: Call) -> None:
        async with free:
            if not stream:
                await kit.acall(call, backend)
                return
            async for _ in kit.astream(call, backend):
                pass

    made = [Call(prompts[number % len(prompts)], "m", metadata=metadata) for number in range(calls)]
    await asyncio.gather(*map(one, made))
    return made


def answered(providers: Mapping[str, FakeProvider]) -> dict[str, int]:
    return {name: provider.stats.by_status.get(200, 0) for name, provider in providers.items()}


def answering(calls: Sequence[Call]) -> list[str]:
    """Who answered each of *calls*."""
    return [call.attempts[-1].target.name for call in calls]


async def become_known(kit: LLMKit, backend: Any) -> None:
    """A few calls to each of the three."""
    for name in PRICES:
        await send(kit, backend, AT_ONCE, route={"only": name})


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("goal", "best"), [("latency", "swift"), ("cost", "thrifty"), ("reliability", "steady")])
async def test_each_goal_finds_its_provider(
    providers: Mapping[str, FakeProvider], backend: Any, goal: str, best: str, stream: bool
) -> None:
    """Once it has learned, most calls are answered by the provider that is best for the goal; none fails."""
    kit = kit_of(optimize_for=goal)
    await send(kit, backend, CALLS, stream=stream)
    learned = answered(providers)
    await send(kit, backend, CALLS, stream=stream)
    assert sum(answered(providers).values()) == 2 * CALLS
    assert answered(providers)[best] - learned[best] > CALLS / 2


async def test_traffic_shifts_when_a_provider_breaks(providers: Mapping[str, FakeProvider], backend: Any) -> None:
    """When the cheapest stops answering, the next cheapest takes over, and hardly anybody asks the first one again."""
    kit = kit_of(optimize_for="cost")
    await send(kit, backend, 40)
    for provider in providers.values():
        provider.reset()
    providers["thrifty"].fail_with(Fault("overloaded"))
    await send(kit, backend, CALLS)
    assert answered(providers)["steady"] > CALLS / 2
    assert providers["thrifty"].stats.requests < CALLS / 4


async def test_who_becomes_slow_loses_its_share_until_it_has_recovered(
    sound: Mapping[str, FakeProvider], backend: Any
) -> None:
    """When the fastest becomes the slowest the next fastest takes over; a minute after it has healed it is back."""
    clock = Ahead()
    kit = kit_of(clock, optimize_for="latency")
    await become_known(kit, backend)
    assert answering(await send(kit, backend, 40)).count("swift") > 20
    sound["swift"].slow_down(first_token_seconds=0.4)
    assert answering(await send(kit, backend, CALLS)).count("steady") > CALLS / 2
    sound["swift"].slow_down(first_token_seconds=0.001)
    for _ in range(6):
        clock.seconds += 10.0
        await send(kit, backend, AT_ONCE)
    back = answering(await send(kit, backend, CALLS))
    assert back.count("swift") > CALLS / 2


async def test_a_call_may_choose_for_itself(providers: Mapping[str, FakeProvider], backend: Any) -> None:
    """Where the kit minds the cost, calls that are in a hurry say so and soon go to the swift one."""
    kit, hurry = kit_of(optimize_for="cost"), {"optimize_for": "latency"}
    await send(kit, backend, 20)
    await send(kit, backend, CALLS, route=hurry)
    hurried = answering(await send(kit, backend, CALLS, route=hurry))
    usual = answering(await send(kit, backend, 20))
    assert hurried.count("swift") > CALLS / 2
    assert usual.count("thrifty") > 10


@pytest.mark.parametrize("route", [{"only": ["steady"]}, {"tags": ["st"]}, {"only": ["steady", "swift"], "tags": "st"}])
async def test_a_call_goes_only_where_it_may(
    providers: Mapping[str, FakeProvider], backend: Any, route: Mapping[str, Any]
) -> None:
    """Neither the fastest nor the cheapest is asked where a call names another one, or its tag."""
    await send(kit_of(optimize_for="cost"), backend, 10, route=route)
    assert [provider.stats.requests for provider in providers.values()] == [0, 10, 0]


async def test_a_call_that_accepts_nobody_is_refused(providers: Mapping[str, FakeProvider], backend: Any) -> None:
    """``NoTarget``, and nobody is asked."""
    with pytest.raises(NoTarget):
        await send(kit_of(), backend, 1, route={"only": ["swift"], "tags": ["st"]})
    assert sum(provider.stats.requests for provider in providers.values()) == 0


async def test_who_fails_is_followed_by_the_next_best(sound: Mapping[str, FakeProvider], backend: Any) -> None:
    """A call goes on in the order of the decision: fastest first where latency counts, cheapest where money does."""
    for goal in ("latency", "cost"):
        kit = kit_of(optimize_for=goal, exploration=0.0)
        await become_known(kit, backend)
        first, last = ("swift", "thrifty") if goal == "latency" else ("thrifty", "swift")
        sound[first].fail_with(Fault("server_error"))
        sound["steady"].fail_with(Fault("server_error"))
        (call,) = await send(kit, backend, 1)
        assert [attempt.target.name for attempt in call.attempts] == [first, "steady", last]
        for provider in sound.values():
            provider.fail_with()


async def test_prompts_that_begin_alike_meet_at_one_provider(sound: Mapping[str, FakeProvider], backend: Any) -> None:
    """Each long beginning goes to one provider, and not all of them to the same."""
    kit = kit_of(optimize_for="reliability", affinity="strict", affinity_chars=200, exploration=0.0)
    homes = []
    for document in range(8):
        beginning = {"role": "system", "content": f"Document {document}. {'Lorem ipsum. ' * 20}"}
        prompts = [[beginning, {"role": "user", "content": word}] for word in ("Who?", "Where?", "When?")]
        homes.append(set(answering(await send(kit, backend, 3, prompts=prompts))))
    assert [len(names) for names in homes] == [1] * 8
    assert len(set.union(*homes)) > 1


async def test_an_outage_is_not_multiplied(providers: Mapping[str, FakeProvider], backend: Any) -> None:
    """When all are down, there is one attempt for each call, and a fifth as many failovers besides and a few."""
    for provider in providers.values():
        provider.fail_with(Fault("server_error"))
    kit = kit_of(optimize_for="cost", failover_share=0.2, failover_floor=5)
    for _ in range(50):
        with pytest.raises(openai.InternalServerError):
            await send(kit, backend, 1)
    assert 50 < sum(provider.stats.requests for provider in providers.values()) <= 50 + 50 / 5 + 5


async def test_what_it_predicts_is_what_providers_charge(providers: Mapping[str, FakeProvider], backend: Any) -> None:
    """After some calls, the predicted cost of one is what the provider itself counts for one."""
    kit = kit_of(optimize_for="cost")
    await send(kit, backend, 60)
    router = kit.plugins["router"].router
    predicted = router.route(Call(PROMPT, "m"), [target for target in kit.targets if target.name == "thrifty"])
    stats = providers["thrifty"].stats
    assert predicted.predicted_cost == pytest.approx(stats.cost / stats.by_status[200], rel=0.25)
