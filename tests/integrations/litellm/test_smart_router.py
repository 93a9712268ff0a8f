"""The smart router among a Router's deployments: each goal finds its own, and a call's metadata may ask for another."""

from __future__ import annotations

import litellm
import pytest
from llmkit_litellm import LLMKitRouter

from llmkit_plugins import LLMKit, RouterPlugin
from llmkit_plugins.testing.fake_provider import Fault

PRICES = {"swift": 10.0, "steady": 2.0, "thrifty": 0.1}
SECONDS = {"swift": 0.001, "steady": 0.08, "thrifty": 0.25}
CALLS = 10
PROMPT = [{"role": "user", "content": "hi"}]


@pytest.fixture
def providers(provider):
    """One is fast and dear, one is cheap and slow, and one is neither."""
    return {name: provider(first_token_seconds=seconds) for name, seconds in SECONDS.items()}


@pytest.fixture
def router_for(providers, deployment, recorder, settings):
    """Makes a Router over the three for a goal. Prices and tags are those of the deployments."""

    def make(goal: str) -> LLMKitRouter:
        plugin = RouterPlugin(optimize_for=goal)
        models = [
            deployment(
                name,
                one,
                input_cost_per_token=PRICES[name] / 1e6,
                output_cost_per_token=PRICES[name] / 1e6,
                tags=[name[:2]],
            )
            for name, one in providers.items()
        ]
        kit = LLMKit([recorder, plugin], on_plugin_error="raise")
        return LLMKitRouter(model_list=models, kit=kit, **settings)

    return make


async def introduce(router):
    """A few calls to each, the slowest first: the very first call takes longer than all others."""
    for _ in range(4):
        for name in reversed(PRICES):
            await router.acompletion("group", PROMPT, metadata={"route": {"only": name}})


@pytest.fixture
def answered(recorder):
    """Who answered the last calls, in order."""
    return lambda: [call.attempts[-1].target.name for call in recorder.calls][-CALLS:]


@pytest.mark.parametrize(("goal", "best"), [("cost", "thrifty"), ("reliability", "steady"), ("latency", "swift")])
async def test_each_goal_finds_its_deployment(router_for, providers, answered, goal, best):
    """After some calls, most go to the one that is best for the goal."""
    router = router_for(goal)
    await introduce(router)
    if goal == "reliability":
        for name in ("swift", "thrifty"):
            providers[name].fail_with(Fault("server_error", on=range(1, 100, 3)))
    for _ in range(CALLS):
        await router.acompletion("group", PROMPT)
    assert answered().count(best) > CALLS / 2


async def test_a_call_may_ask_for_something_else(router_for, answered):
    """Its metadata names another goal; other calls go where they went."""
    router = router_for("cost")
    await introduce(router)
    for metadata, best in (({"route": {"optimize_for": "latency"}}, "swift"), ({}, "thrifty")):
        for _ in range(CALLS):
            await router.acompletion("group", PROMPT, metadata=dict(metadata))
        assert answered().count(best) > CALLS / 2


@pytest.mark.parametrize("route", [{"only": "steady"}, {"tags": ["st"]}])
async def test_a_call_goes_only_where_it_may(router_for, providers, route):
    """Nobody else is asked."""
    router = router_for("cost")
    for _ in range(3):
        await router.acompletion("group", PROMPT, metadata={"route": route})
    assert [provider.stats.requests for provider in providers.values()] == [0, 3, 0]


async def test_a_call_that_accepts_nobody_is_refused(router_for, providers):
    """Nobody is asked, and LiteLLM's callers catch it as what they know."""
    with pytest.raises(litellm.ServiceUnavailableError):
        await router_for("cost").acompletion("group", PROMPT, metadata={"route": {"only": "nobody"}})
    assert sum(provider.stats.requests for provider in providers.values()) == 0
