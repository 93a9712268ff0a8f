"""One line for all of LiteLLM: idempotent, reversible, and beside whoever else has wrapped it."""

from __future__ import annotations

import asyncio
import gc
from functools import wraps
from types import SimpleNamespace

import litellm
import pytest
from llmkit_litellm import LLMKitLogger, LLMKitRouter, install, uninstall
from llmkit_litellm.sdk import SDK
from llmkit_litellm.seams import Seam, Seams

from llmkit_plugins import ConfigError, LLMKit
from llmkit_plugins.testing import Recorder

OK = {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1}
PROMPT = [{"role": "user", "content": "hi there"}]


FUNCTIONS = ["completion", "text_completion", "embedding", "acompletion", "atext_completion", "aembedding"]
PRIVATE = ["_get_routing_context", "_generic_api_call_with_fallbacks", "_aresponses_with_streaming_fallbacks"]
PATCHED = {
    litellm: [*FUNCTIONS, "responses", "aresponses"],
    litellm.Router: [*FUNCTIONS, *PRIVATE, "print_deployment"],
}


def patched():
    """All that ``install`` replaces, as it is now."""
    return [getattr(owner, name) for owner, names in PATCHED.items() for name in names]


@pytest.fixture
def original():
    """The same while no kit is installed. Routers of other tests may live on (LiteLLM keeps them for a while), and with
    them what they share; so it is held here."""
    SDK.hold()
    yield patched()
    SDK.release()


def test_uninstall_undoes_install(kit, original):
    """Everything that was replaced is put back, the very same objects; doing it twice does no harm."""
    install(kit)
    routers = len(PATCHED[litellm])
    assert not any(ours is theirs for ours, theirs in zip(patched()[routers:], original[routers:], strict=True))
    uninstall()
    assert patched() == original
    uninstall()
    assert patched() == original


async def test_installing_twice_is_installing_once(kit, enter, ask, heard, original):
    """The second time changes nothing, and one ``uninstall`` undoes both."""
    entrance = enter("sdk")
    install(kit)
    await ask("async", entrance)
    assert heard() == OK
    uninstall()
    assert patched() == original


def test_another_kit(kit):
    """A second kit is refused, and told what to do."""
    install(kit)
    with pytest.raises(ConfigError, match="another kit is installed"):
        install(LLMKit())


@pytest.mark.parametrize("what", [None, LLMKit, "llmkit.toml"])
@pytest.mark.parametrize("take", [install, LLMKitLogger, lambda kit: LLMKitRouter(model_list=[], kit=kit)])
def test_what_is_no_kit(take, what, original):
    """It is refused where it is handed over, with what would be right, and nothing is replaced."""
    with pytest.raises(ConfigError, match=r"kit: .* is no LLMKit \(LLMKit\(\[\.\.\.\]\) or LLMKit\.from_config\(\)\)"):
        take(what)
    assert patched() == original


async def test_after_uninstall_nothing_is_heard(enter, ask, recorder):
    """LiteLLM is as it was, for Routers made meanwhile too."""
    sdk, routed = enter("sdk"), enter("installed")
    uninstall()
    for entrance in (sdk, routed):
        assert await ask("async", entrance)
    assert not recorder.counts


async def test_routers_that_exist_already(kit, ask, deployment, first, settings, heard):
    """A Router that was made before is covered too."""
    router = litellm.Router(model_list=[deployment("a", first)], **settings)
    install(kit)
    await router.acompletion("group", PROMPT)
    assert heard() == OK


async def test_a_subclass_of_the_router(kit, deployment, first, settings, heard):
    """A Router of the user's own that overrides a method is covered."""

    class Mine(litellm.Router):
        async def acompletion(self, *args, **kwargs):
            return await super().acompletion(*args, **kwargs)

    install(kit)
    await Mine(model_list=[deployment("a", first)], **settings).acompletion("group", PROMPT)
    assert heard() == OK


async def test_a_router_with_a_kit_of_its_own(kit, enter, ask, heard, deployment, first, settings):
    """Where another kit is installed, an ``LLMKitRouter`` goes through its own, once."""
    other = Recorder()
    with LLMKit([other]) as installed:
        entrance = enter("router")
        install(installed)
        await ask("async", entrance)
        assert heard() == OK
        assert not other.counts


async def test_calls_beside_an_llmkit_router(enter, ask, recorder):
    """They are none of its business."""
    enter("router")
    beside = enter("sdk"), enter("installed")
    uninstall()
    for entrance in beside:
        await ask("async", entrance)
    assert not recorder.counts


def test_an_llmkit_router_lets_go(kit, deployment, first, monkeypatch):
    """What it replaces for itself, it gives back when it goes."""
    module = SimpleNamespace(completion=lambda: None)
    original = module.completion
    monkeypatch.setattr("llmkit_litellm.router.SDK", Seams(Seam(module, "completion", lambda wrapped: lambda: None)))
    router = LLMKitRouter(model_list=[deployment("a", first)], kit=kit)
    assert module.completion is not original
    litellm.logging_callback_manager._reset_all_callbacks()
    del router
    gc.collect()
    assert module.completion is original


async def test_somebody_elses_patch_on_top(kit, enter, ask, heard, monkeypatch):
    """Another library's wrapper over ours stays when we go, and ours is not put on twice when we come back."""
    entrance = enter("sdk")
    ours, seen = litellm.acompletion, []

    @wraps(ours)
    async def theirs(*args, **kwargs):
        seen.append(kwargs["model"])
        return await ours(*args, **kwargs)

    monkeypatch.setattr(litellm, "acompletion", theirs)
    uninstall()
    await ask("async", entrance)
    assert heard() == {}
    install(kit)
    assert litellm.acompletion is theirs
    await ask("async", entrance)
    assert heard() == OK
    assert len(seen) == 2


async def test_a_call_from_a_callback(kit, enter, ask, heard):
    """A call that a user's callback makes in the background is a call of its own."""

    class Judge(litellm.integrations.custom_logger.CustomLogger):
        verdict = None

        async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
            if self.verdict is None:
                self.verdict = ""
                self.verdict = await ask("async", entrance)

    judge = Judge()
    litellm.callbacks.append(judge)
    entrance = enter("sdk")
    await ask("async", entrance)
    await _until(lambda: judge.verdict)
    assert heard() == {"request": 2, "attempt": 2, "attempt ok": 2, "request ok": 2}


async def test_a_hook_that_has_another_model_judge_the_prompt(enter, ask, heard, recorder, deployment, first, second):
    """It makes a call of its own, though of the same prompt."""

    class Judged(litellm.integrations.custom_logger.CustomLogger):
        async def async_filter_deployments(self, model, healthy_deployments, messages, **_):
            if model == "group":
                await ask("async", entrance, model="judge", messages=messages)
            return healthy_deployments

    models = [deployment("a", first), deployment("b", second, "judge")]
    entrance = enter("router", model_list=models)
    litellm.callbacks.append(Judged())
    await ask("async", entrance)
    assert heard() == {"request": 2, "attempt": 2, "attempt ok": 2, "request ok": 2}
    assert [call.model for call in recorder.calls] == ["group", "judge"]
    assert [attempt.target.name for attempt in recorder.attempts] == ["b", "a"]


async def test_a_provider_of_the_users_that_calls_another(kit, enter, ask, heard, monkeypatch):
    """What LiteLLM itself calls while it answers is a part of that call."""
    entrance = enter("sdk")

    class Relay(litellm.CustomLLM):
        async def acompletion(self, *args, **kwargs):
            return await entrance.acompletion()

    monkeypatch.setattr(litellm, "custom_provider_map", [{"provider": "relay", "custom_handler": Relay()}])
    litellm.utils.custom_llm_setup()
    answer = await litellm.acompletion("relay/anything", PROMPT)
    assert answer.choices[0].message.content == "one two three"
    assert heard() == OK


async def test_llmkit_router_needs_a_kit(deployment, first):
    """The kit is not optional."""
    with pytest.raises(TypeError, match="kit"):
        LLMKitRouter(model_list=[deployment("a", first)])


async def _until(holds):
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError
