"""The acts of the demo, each of which shows one thing."""

from __future__ import annotations

import asyncio

from langchain_core.runnables import RunnableConfig

from llmkit_plugins import RateLimited
from llmkit_plugins.demo.act import Act, Outcome, Step
from llmkit_plugins.demo.goals import three_goals
from llmkit_plugins.demo.scene import GREEDY, Scene
from llmkit_plugins.plugins.circuit_breaker import State
from llmkit_plugins.testing.fake_provider import Fault


async def everyday_traffic(scene: Scene, step: Step, requests: int) -> Outcome:
    """A chain and a Router, streamed and whole, sixteen at a time; providers fail now and then."""
    kinds = (_chain_whole, _chain_streamed, _router_whole, _router_streamed)
    free = asyncio.Semaphore(16)
    done = failed = 0

    async def one(number: int) -> None:
        nonlocal done, failed
        async with free:
            try:
                await kinds[number % len(kinds)](scene, number)
            except Exception:
                failed += 1
            done += 1
            step(done, requests)

    await asyncio.gather(*[one(number) for number in range(requests)])
    provider_errors = sum(
        count
        for provider in scene.providers.values()
        for status, count in provider.stats.by_status.items()
        if status >= 400
    )
    told = (
        f"{requests - failed} of {requests} requests were answered, although providers failed {provider_errors} times"
    )
    return Outcome(good=failed == 0, told=told)


async def all_at_once(scene: Scene, step: Step, _: int) -> Outcome:
    """A hundred callers stream the answer to one question at the same time."""
    callers, done = 100, 0
    before = sum(provider.stats.requests for provider in scene.providers.values())
    saved_before = scene.multiplexer.multiplexer.stats()

    async def one() -> str:
        nonlocal done
        text = "".join([chunk async for chunk in scene.chain.astream(_question(0))])
        done += 1
        step(done, callers)
        return text

    answers = await asyncio.gather(*[one() for _ in range(callers)])
    sent = sum(provider.stats.requests for provider in scene.providers.values()) - before
    saved = scene.multiplexer.multiplexer.stats()
    tokens, usd = saved.tokens_saved - saved_before.tokens_saved, saved.usd_saved - saved_before.usd_saved
    good = len(set(answers)) == 1 and sent <= 3  # the first may have failed over
    told = f"{callers} callers, {sent} upstream request{'s' if sent > 1 else ''}: saved {tokens} tokens and ${usd:.4f}"
    return Outcome(good=good, told=told)


async def over_the_limit(scene: Scene, step: Step, _: int) -> Outcome:
    """One user sends six requests at once; three are within the limit, the others are told how long to wait."""
    waits: list[float] = []

    async def one(number: int) -> None:
        try:
            await scene.chain.ainvoke(_question(number), config=RunnableConfig(metadata={"user": GREEDY}))
        except RateLimited as refusal:
            waits.append(refusal.retry_after or 0.0)
        step(min(number + 1, 6), 6)

    await asyncio.gather(*[one(number) for number in range(6)])
    wait = min(waits, default=0.0)
    await asyncio.sleep(wait)
    refused = len(waits)
    await one(6)
    told = (
        f"three of six requests of {GREEDY!r} were refused, told to wait {wait:.2f} s; after that the next one passed"
    )
    return Outcome(good=refused == 3 and len(waits) == refused, told=told)


async def a_provider_dies(scene: Scene, step: Step, _: int) -> Outcome:
    """The preferred provider answers only 500s for a while; its circuit opens, and closes once it recovers."""
    dying, breaker = scene.providers["swift"], scene.circuit_breaker.breaker("swift")
    errors, asked, requests = 0, 0, 80
    dying.fail_with(Fault("server_error"))
    before = dying.stats.requests
    for number in range(requests):
        if number == requests // 2:
            asked = dying.stats.requests - before
            dying.heal()
            await asyncio.sleep(breaker.retry_after() or 0.0)
        try:
            await _chain_whole(scene, number)
        except Exception:
            errors += 1
        step(number + 1, requests)
    back = breaker.state is State.CLOSED
    told = f"'swift' died: {asked} of {requests // 2} requests still met it, {errors} callers saw an error"
    return Outcome(
        good=errors == 0 and back, told=f"{told}, and {'it is used again' if back else 'it was not found again'}"
    )


async def _chain_whole(scene: Scene, number: int) -> None:
    await scene.chain.ainvoke(_question(number), config=_config(number))


async def _chain_streamed(scene: Scene, number: int) -> None:
    async for _ in scene.chain.astream(_question(number), config=_config(number)):
        pass


async def _router_whole(scene: Scene, number: int) -> None:
    await scene.router.acompletion(model="chat", messages=_messages(number), user=_user(number))


async def _router_streamed(scene: Scene, number: int) -> None:
    stream = await scene.router.acompletion(
        model="chat",
        messages=_messages(number),
        user=_user(number),
        stream=True,
        stream_options={"include_usage": True},
    )
    async for _ in stream:
        pass


def _question(number: int) -> dict[str, str]:
    return {"topic": "numbers", "question": f"What is special about {number}?"}


def _messages(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is special about {number}?"}]


def _config(number: int) -> RunnableConfig:
    return RunnableConfig(metadata={"user": _user(number)})


def _user(number: int) -> str:
    return f"user-{number % 5}"


ACTS = (
    Act("Everyday traffic through LangChain and LiteLLM", everyday_traffic),
    Act("A hundred callers with the same question", all_at_once),
    Act("A user over the limit", over_the_limit),
    Act("A provider dies and heals", a_provider_dies),
    Act("Three goals for the router", three_goals),
)
