"""``rpm`` and ``tpm`` of a model list are limits, where the kit limits."""

from __future__ import annotations

import litellm
import pytest
from llmkit_litellm import LLMKitRouter, install, uninstall

from llmkit_plugins import RateLimited, RateLimiterPlugin
from llmkit_plugins.testing import ManualClock


@pytest.fixture(params=["sync", "async stream"])
def mode(request):
    """The Router's two ways to select."""
    return request.param


@pytest.fixture
def limiting(kit):
    """The kit, with a rate limiter that limits nothing itself."""
    kit.register(RateLimiterPlugin(), at=0)
    return kit


@pytest.fixture
def tried(recorder):
    """The names of the targets that were tried, in order."""
    return lambda: [attempt.target.name for attempt in recorder.attempts]


async def test_a_deployment_with_no_requests_left_is_passed_over(
    limiting, enter, mode, ask, deployment, first, second, tried
):
    """Another one takes over until the minute has passed."""
    models = [deployment("a", first, rpm=2), deployment("b", second)]
    entrance = enter("router", model_list=models)
    for _ in range(4):
        await ask(mode, entrance)
    assert tried() == ["a", "a", "b", "b"]


@pytest.mark.parametrize("limits", [{"rpm": 0}, {"tpm": 0}, {"rpm": 0, "tpm": 0}, {"tpm": -1}])
async def test_a_limit_of_nothing_is_none(limiting, enter, mode, ask, deployment, first, limits):
    """LiteLLM sends to such a deployment all the same, and so does it with us, without a bug in the log."""
    entrance = enter("router", model_list=[deployment("a", first, **limits)])
    assert await ask(mode, entrance) == "one two three"
    assert not limiting.bugs


@pytest.mark.parametrize("kind", ["router", "installed"])
async def test_where_none_is_left_the_caller_is_told_when(limiting, enter, mode, ask, deployment, first, kind, heard):
    """He gets LiteLLM's own error with the wait, and nobody is asked or cooled down."""
    entrance = enter(kind, model_list=[deployment("a", first, rpm=1)], disable_cooldowns=False)
    await ask(mode, entrance)
    with pytest.raises(litellm.RateLimitError) as raised:
        await ask(mode, entrance)
    assert isinstance(raised.value, RateLimited)
    assert raised.value.limit == "rpm of a"
    assert 50 < int(raised.value.headers["retry-after"]) <= 60
    assert first.stats.requests == 1
    assert heard()["request refused"] == 1


async def test_tokens_are_settled(limiting, enter, mode, ask, deployment, first, second, tried):
    """Tokens are reserved by estimate and settled by what the answer took: here 5 a call, of 100 a minute."""
    models = [deployment("a", first, tpm=100), deployment("b", second)]
    entrance = enter("router", model_list=models)
    for _ in range(3):
        await ask(mode, entrance, max_tokens=80)
    assert tried() == ["a"] * 3


async def test_a_limit_comes_back(recorder, deployment, first, settings):
    """After its interval there is a request again: time is the kit's."""
    from llmkit_plugins import LLMKit

    clock = ManualClock()
    with LLMKit([RateLimiterPlugin(), recorder], clock=clock) as kit:
        router = LLMKitRouter(model_list=[deployment("a", first, rpm=1)], kit=kit, **settings)
        prompt = [{"role": "user", "content": "hi"}]
        await router.acompletion("group", prompt)
        with pytest.raises(litellm.RateLimitError):
            await router.acompletion("group", prompt)
        clock.advance(60.0)
        await router.acompletion("group", prompt)
    assert first.stats.requests == 2


async def test_a_limiter_that_only_counts(kit, enter, mode, ask, deployment, first, second, tried):
    """Where the kit's own limiter refuses nobody, neither do these."""
    kit.register(RateLimiterPlugin(on_limit="shadow"), at=0)
    entrance = enter("router", model_list=[deployment("a", first, rpm=1), deployment("b", second)])
    for _ in range(3):
        await ask(mode, entrance)
    assert tried() == ["a"] * 3


async def test_a_kit_that_does_not_limit(kit, enter, mode, ask, deployment, first, second, tried):
    """Limits are the rate limiter's matter: without one there are none."""
    entrance = enter("router", model_list=[deployment("a", first, rpm=1), deployment("b", second)])
    for _ in range(3):
        await ask(mode, entrance)
    assert tried() == ["a"] * 3


def test_it_is_registered_once(limiting, enter):
    """Right after the limiter, however often the kit is used."""
    enter("router")
    install(limiting)
    uninstall()
    install(limiting)
    assert list(limiting.plugins)[:2] == ["rate_limiter", "deployment_limits"]
    assert list(limiting.plugins).count("deployment_limits") == 1
