"""Two providers, the real LiteLLM in front of them through each entrance, a kit that records, and every way to call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else importing it asks the network for prices

import litellm
from llmkit_litellm import LLMKitRouter, install, uninstall

from llmkit_plugins import LLMKit
from llmkit_plugins.testing import FakeProvider, Recorder

MODEL = "gpt-4o-mini"
PROMPT = [{"role": "user", "content": "hi there"}]
ENTRANCES = ("sdk", "router", "installed")
MODES = ("sync", "async", "sync stream", "async stream")


@pytest.fixture(autouse=True)
async def fresh_litellm() -> AsyncIterator[None]:
    """What LiteLLM keeps per process (connections, callbacks, prices) is as in a fresh one when the test is over."""
    prices = dict(litellm.model_cost)
    # a client that needs no certificates is made in no time
    with httpx.Client(verify=False) as litellm.client_session:
        async with httpx.AsyncClient(verify=False) as litellm.aclient_session:
            yield
    litellm.client_session = litellm.aclient_session = litellm.cache = None
    uninstall()
    litellm.in_memory_llm_clients_cache.flush_cache()
    litellm.logging_callback_manager._reset_all_callbacks()
    litellm.model_cost.clear()
    litellm.model_cost.update(prices)


@pytest.fixture
def provider() -> Iterator[Callable[..., FakeProvider]]:
    """Starts providers that are closed when the test ends."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(FakeProvider(**settings))


@pytest.fixture
def first(provider) -> FakeProvider:
    """The provider of deployment ``a``, which is preferred, and of the SDK's calls."""
    return provider(reply="one two three")


@pytest.fixture
def second(provider) -> FakeProvider:
    """The provider of deployment ``b``."""
    return provider(reply="four five")


@pytest.fixture
def recorder() -> Recorder:
    """Hears everything, and in the end must have heard the end of everything."""
    return Recorder()


@pytest.fixture
def alphabetical(plugin) -> Any:
    """Prefers targets in the order of their names."""
    return plugin("alphabetical", route=lambda call, targets: sorted(targets, key=lambda target: target.name))


@pytest.fixture
def kit(recorder, alphabetical) -> Iterator[LLMKit]:
    """A kit that records, prefers ``a`` and hides no bug."""
    with LLMKit([recorder, alphabetical], on_plugin_error="raise") as kit:
        yield kit
        assert not kit.leases
        assert not kit.flights
    assert not recorder.open


@pytest.fixture
def deployment() -> Callable[..., dict[str, Any]]:
    """Makes entries of a model list."""

    def make(name: str, provider: FakeProvider, group: str = "group", **params: Any) -> dict[str, Any]:
        own = {"model": f"openai/{MODEL}", "api_base": provider.url, "api_key": "k", **params}
        return {"model_name": group, "litellm_params": own, "model_info": {"id": name}}

    return make


@pytest.fixture
def settings() -> dict[str, Any]:
    """What keeps a Router from sleeping in a test."""
    return {"num_retries": 2, "retry_after": 0, "cooldown_time": 60, "disable_cooldowns": True}


class Entrance:
    """One way into LiteLLM: ``completion`` and ``acompletion``, and the targets it can reach."""

    def __init__(self, kind: str, router: Any, first: FakeProvider) -> None:
        self.kind, self.router, self._first = kind, router, first
        self.targets = [f"openai/{MODEL}@{first.url}"] if kind == "sdk" else ["a", "b"]

    def completion(self, **given: Any) -> Any:
        if self.kind == "sdk":
            given = {"model": f"openai/{MODEL}", "api_base": self._first.url, "api_key": "k", "max_retries": 0, **given}
            return litellm.completion(messages=PROMPT, **given)
        return self.router.completion(**{"model": "group", "messages": PROMPT, **given})

    async def acompletion(self, **given: Any) -> Any:
        if self.kind == "sdk":
            given = {"model": f"openai/{MODEL}", "api_base": self._first.url, "api_key": "k", "max_retries": 0, **given}
            return await litellm.acompletion(messages=PROMPT, **given)
        return await self.router.acompletion(**{"model": "group", "messages": PROMPT, **given})


@pytest.fixture
def enter(kit, first, second, deployment, settings) -> Callable[..., Entrance]:
    """Makes an entrance of a kind; the others' settings are those of the Router."""

    def make(kind: str, **given: Any) -> Entrance:
        models = [deployment("a", first), deployment("b", second)]
        options = {"model_list": models, **settings, **given}
        if kind == "router":
            return Entrance(kind, LLMKitRouter(kit=kit, **options), first)
        router = None if kind == "sdk" else litellm.Router(**options)
        install(kit)
        return Entrance(kind, router, first)

    return make


@pytest.fixture(params=ENTRANCES)
def entrance(request, enter) -> Entrance:
    """Each entrance."""
    return enter(request.param)


@pytest.fixture(params=ENTRANCES[1:])
def routed(request, enter) -> Entrance:
    """Each entrance with a Router."""
    return enter(request.param)


@pytest.fixture(params=MODES)
def mode(request) -> str:
    """How the call is made."""
    mode: str = request.param
    return mode


@pytest.fixture
def ask() -> Callable[..., Any]:
    """``await ask(mode, entrance, **arguments)``: the text of the answer; the sync modes run in a thread."""

    async def ask(mode: str, entrance: Any, **given: Any) -> str:
        if mode.endswith("stream"):
            given = {"stream": True, "stream_options": {"include_usage": True}, **given}
        if mode == "sync":
            return _text(await asyncio.to_thread(entrance.completion, **given))
        if mode == "async":
            return _text(await entrance.acompletion(**given))
        if mode == "sync stream":
            return await asyncio.to_thread(lambda: "".join(map(_piece, entrance.completion(**given))))
        return "".join([_piece(chunk) async for chunk in await entrance.acompletion(**given)])

    return ask


def _text(answer: Any) -> str:
    return answer.choices[0].message.content


def _piece(chunk: Any) -> str:
    return "".join(choice.delta.content or "" for choice in chunk.choices)


@pytest.fixture
def heard(recorder) -> Callable[[], dict[str, int]]:
    """What the plugins heard, routing aside."""
    return lambda: {what: times for what, times in recorder.counts.items() if what != "route"}
