"""The callback for those who only watch."""

from __future__ import annotations

import asyncio

import litellm
import pytest
from llmkit_litellm import LLMKitLogger, install, uninstall

from llmkit_plugins import LLMKit, Refused, Usage
from llmkit_plugins.testing import Recorder
from llmkit_plugins.testing.fake_provider import Fault

OK = {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1}


@pytest.fixture
def watched(kit, enter):
    """LiteLLM as it is, watched: the SDK and a Router."""
    sdk, routed = enter("sdk"), enter("installed")
    uninstall()
    litellm.callbacks.append(LLMKitLogger(kit))
    return {"sdk": sdk, "routed": routed}


@pytest.fixture
def ended(recorder):
    """``await ended(number)``: wait until that many calls have ended; LiteLLM tells in the background."""

    async def ended(number=1):
        for _ in range(500):
            if recorder.counts["request"] >= number and not recorder.open:
                return
            await asyncio.sleep(0.01)
        raise TimeoutError(recorder.counts)

    return ended


@pytest.mark.parametrize("kind", ["sdk", "routed"])
async def test_ok(watched, kind, mode, ask, ended, heard, recorder):
    """A call is heard from its beginning to its end, with usage and cost."""
    await ask(mode, watched[kind], **({"model": "a"} if kind == "routed" else {}))
    await ended()
    assert heard() == OK
    call, attempt = recorder.calls[0], recorder.attempts[0]
    assert call.stream == mode.endswith("stream") == (attempt.first_chunk is not None)
    assert attempt.usage == Usage(input_tokens=2, output_tokens=3)
    assert attempt.cost == pytest.approx((0.15 * 2 + 0.60 * 3) / 1e6)
    assert attempt.target.name == ("a" if kind == "routed" else watched[kind].targets[0])
    if attempt.first_chunk is not None:
        assert attempt.started <= attempt.first_chunk <= attempt.finished


async def test_what_nobody_prices_is_not_free(watched, ended, recorder, first, deployment, settings):
    """LiteLLM says 0 where it has no price: the cost is unknown."""
    router = litellm.Router(model_list=[deployment("a", first, model="custom_openai/nobody-knows")], **settings)
    await router.acompletion("group", [{"role": "user", "content": "hi"}])
    await ended()
    assert recorder.attempts[0].usage is not None
    assert recorder.attempts[0].cost is None


async def test_an_answer_of_the_responses_api(watched, ended, recorder, first):
    """It has the operation's name, awaited or not."""
    access = {"model": "custom_openai/gpt-4o-mini", "api_base": first.url, "api_key": "k"}
    await litellm.aresponses(input="hi", **access)
    await ended()
    assert [call.operation for call in recorder.calls] == ["responses"]


async def test_failures(watched, mode, ask, ended, heard, recorder, first, second):
    """Each try of a Router is a call; a failure has its kind."""
    for provider in (first, second):
        provider.fail_with(Fault("overloaded"))
    with pytest.raises(litellm.ServiceUnavailableError):
        await ask(mode, watched["routed"])
    await ended(3)
    assert heard() == {"request": 3, "attempt": 3, "attempt error": 3, "request error": 3}
    assert {attempt.kind for attempt in recorder.attempts} == {"overloaded"}


async def test_it_only_watches(watched, ask, kit, plugin, heard):
    """What a plugin refuses is sent all the same."""

    def refuse(call):
        raise Refused("no")

    kit.register(plugin(pre_request=refuse))
    assert await ask("async", watched["sdk"]) == "one two three"
    assert heard() == {"request": 1, "request refused": 1}


async def test_nothing_is_heard_twice(watched, kit, ask, heard):
    """Where the kit is installed too, the callback leaves its calls alone."""
    install(kit)
    for entrance in watched.values():
        await ask("async", entrance)
    await asyncio.sleep(0.1)
    assert heard() == {"request": 2, "attempt": 2, "attempt ok": 2, "request ok": 2}


async def test_two_loggers(watched, ask, ended):
    """LiteLLM does not take a second one, for another kit, for the first."""
    other = Recorder()
    with LLMKit([other]) as second_kit:
        litellm.callbacks.append(LLMKitLogger(second_kit))
        await ask("async", watched["sdk"])
        await ended()
        for _ in range(100):
            if not other.open:
                break
            await asyncio.sleep(0.01)
    assert other.counts["request ok"] == 1


async def test_an_abandoned_stream_ends_with_its_lease(enter):
    """LiteLLM tells nobody of it; the lease does, when the next call begins, and nothing of it is kept."""
    recorder = Recorder()
    with LLMKit([recorder], lease_seconds=0.0) as kit:
        logger = LLMKitLogger(kit)
        entrance = enter("sdk")
        uninstall()
        litellm.callbacks.append(logger)
        stream = await entrance.acompletion(stream=True)
        await anext(stream)
        await stream.aclose()
        await entrance.acompletion()
        assert recorder.counts["request cancelled"] == 1
        assert len(logger._open) <= 1
