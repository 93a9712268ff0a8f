"""The router's act: three goals, and where the same requests go for each of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from itertools import count
from random import Random

from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from llmkit_langchain import ChatLLMKit
from openai import DefaultAsyncHttpxClient

from llmkit_plugins import LLMKit, Target, Usage
from llmkit_plugins.demo.act import Outcome, Step
from llmkit_plugins.demo.scene import ANY_KEY, MODEL, Cast, Scene
from llmkit_plugins.plugins.router import RouterPlugin
from llmkit_plugins.plugins.router.config import OptimizeFor
from llmkit_plugins.testing.fake_provider import FakeProvider, Fault

CASTS: Mapping[str, Cast] = {
    "fast": Cast(0.005, 5.00, 20.00, faults=(Fault("server_error", on=range(2, 10_000, 10)),)),
    "sound": Cast(0.060, 1.00, 4.00),
    "cheap": Cast(0.240, 0.10, 0.40),
}

TARGETS: Mapping[str, Target] = {
    name: Target(name, name, MODEL, input_price=cast.input_price, output_price=cast.output_price)
    for name, cast in CASTS.items()
}

BEST: Mapping[OptimizeFor, str] = {"latency": "fast", "cost": "cheap", "reliability": "sound"}

REQUESTS, AT_ONCE = 60, 8


class Tally:
    """What the requests for one goal took and cost."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.seconds = self.usd = 0.0

    def count(self, answer: AIMessage, seconds: float) -> None:
        """Count an *answer* that took *seconds*."""
        name = answer.response_metadata["llmkit"]["target"]
        self.answers[name] += 1
        self.seconds += seconds
        if tokens := answer.usage_metadata:
            self.usd += TARGETS[name].cost(Usage(tokens["input_tokens"], tokens["output_tokens"])) or 0.0

    def share(self, name: str) -> float:
        """The fraction that *name* answered."""
        return self.answers[name] / REQUESTS

    @property
    def cells(self) -> tuple[str, ...]:
        """A table row: shares, then the mean time of an answer and the cost of a thousand."""
        shares = [f"{self.share(name):.0%}" for name in CASTS]
        return (*shares, f"{self.seconds / REQUESTS * 1000:.0f} ms", f"${self.usd / REQUESTS * 1000:.4f}")


async def three_goals(_: Scene, step: Step, __: int) -> Outcome:
    """The same requests three times, to three providers that are each best at one thing; one fails now and then."""
    done, total = count(1), len(BEST) * REQUESTS
    tallies = {goal: await _sent(goal, lambda: step(next(done), total)) for goal in BEST}
    found = [f"by {goal} {tallies[goal].share(best):.0%} went to the {best} one" for goal, best in BEST.items()]
    heading = ("goal", *CASTS, "mean latency", "cost of 1000")
    return Outcome(
        good=all(tallies[goal].share(best) > 0.5 for goal, best in BEST.items()),
        told=f"of {REQUESTS} requests each, {', '.join(found)}",
        figures=[heading, *[(goal, *tally.cells) for goal, tally in tallies.items()]],
    )


async def _sent(goal: OptimizeFor, step: Callable[[], None]) -> Tally:
    """Send the requests through a router with this *goal* and tally them."""
    free, tally = asyncio.Semaphore(AT_ONCE), Tally()

    async def one(model: ChatLLMKit, number: int) -> None:
        async with free:
            begun = time.perf_counter()
            answer = await model.ainvoke(f"What is special about {number}?")
            tally.count(answer, time.perf_counter() - begun)
        step()

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(DefaultAsyncHttpxClient())
        providers = {name: stack.enter_context(_provider(cast)) for name, cast in CASTS.items()}
        kit = stack.enter_context(LLMKit([_router(goal)], TARGETS.values()))
        models = {
            name: ChatOpenAI(
                model=MODEL, base_url=provider.url, api_key=ANY_KEY, max_retries=0, http_async_client=client
            )
            for name, provider in providers.items()
        }
        model = ChatLLMKit(models=models, kit=kit)
        await asyncio.gather(*[one(model, number) for number in range(REQUESTS)])
    return tally


def _router(goal: OptimizeFor) -> RouterPlugin:
    """A router so optimistic about unknown targets that it tries all of them early."""
    return RouterPlugin(
        optimize_for=goal, first_chunk_seconds=0.02, seconds_per_output_token=0.0005, random=Random(1).random
    )


def _provider(cast: Cast) -> FakeProvider:
    return FakeProvider(first_token_seconds=cast.seconds, faults=cast.faults)
