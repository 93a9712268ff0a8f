"""The smart router behind ``ChatLLMKit``: each goal finds its model, and a run's metadata may ask for another."""

from __future__ import annotations

import pytest
from llmkit_langchain import ChatLLMKit

from llmkit_plugins import LLMKit, NoTarget, RouterPlugin, Target
from llmkit_plugins.testing.fake_provider import Fault

PRICES = {"swift": 10.0, "steady": 2.0, "thrifty": 0.1}
SECONDS = {"swift": 0.001, "steady": 0.08, "thrifty": 0.25}
CALLS = 10


@pytest.fixture
def providers(provider):
    """One is fast and dear, one is cheap and slow, and one is neither."""
    return {name: provider(first_token_seconds=seconds) for name, seconds in SECONDS.items()}


@pytest.fixture
def model_for(providers, chat_openai, recorder):
    """Makes a model over the three for a goal."""

    def make(goal: str) -> ChatLLMKit:
        router = RouterPlugin(optimize_for=goal)
        targets = [
            Target(name, name, name, input_price=price, output_price=price, metadata={"tags": [name[:2]]})
            for name, price in PRICES.items()
        ]
        kit = LLMKit([recorder, router], targets, on_plugin_error="raise")
        return ChatLLMKit(models={name: chat_openai(one, name) for name, one in providers.items()}, kit=kit)

    return make


async def introduce(model):
    """A few calls to each, the slowest first: the very first call takes longer than all others."""
    for _ in range(4):
        for name in reversed(PRICES):
            await model.ainvoke("hi", {"metadata": {"route": {"only": name}}})


@pytest.fixture
def answered(recorder):
    """Who answered the last calls, in order."""
    return lambda: [call.attempts[-1].target.name for call in recorder.calls][-CALLS:]


@pytest.mark.parametrize(("goal", "best"), [("cost", "thrifty"), ("reliability", "steady"), ("latency", "swift")])
async def test_each_goal_finds_its_model(model_for, providers, ask, answered, goal, best):
    """After some calls, most go to the one that is best for the goal."""
    model = model_for(goal)
    await introduce(model)
    if goal == "reliability":
        for name in ("swift", "thrifty"):
            providers[name].fail_with(Fault("server_error", on=range(1, 100, 3)))
    for _ in range(CALLS):
        await ask("ainvoke", model)
    assert answered().count(best) > CALLS / 2


@pytest.mark.parametrize("mode", ["invoke", "astream"])
async def test_a_run_may_ask_for_something_else(model_for, chain_of, ask, answered, mode):
    """Its metadata names another goal, and a chain passes it on; other runs go where they went."""
    model = model_for("cost")
    await introduce(model)
    chain = chain_of(model)
    for metadata, best in (({"route": {"optimize_for": "latency"}}, "swift"), ({}, "thrifty")):
        for _ in range(CALLS):
            await ask(mode, chain, {"metadata": metadata}, {"topic": "hi"})
        assert answered().count(best) > CALLS / 2


@pytest.mark.parametrize("route", [{"only": "steady"}, {"tags": ["st"]}])
async def test_a_run_goes_only_where_it_may(model_for, ask, providers, route):
    """Nobody else is asked."""
    model = model_for("cost")
    for _ in range(3):
        await ask("ainvoke", model, {"metadata": {"route": route}})
    assert [provider.stats.requests for provider in providers.values()] == [0, 3, 0]


async def test_a_run_that_accepts_nobody_is_refused(model_for, ask):
    """With ``NoTarget``."""
    with pytest.raises(NoTarget):
        await ask("ainvoke", model_for("cost"), {"metadata": {"route": {"only": "nobody"}}})
