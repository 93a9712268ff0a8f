"""The spans of calls through a LiteLLM Router, as a real receiver gets them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else importing it asks the network for prices

import litellm
from llmkit_litellm import LLMKitRouter, install, uninstall

from llmkit_plugins import LLMKit
from llmkit_plugins.plugins.observability import ObservabilityPlugin
from llmkit_plugins.testing import FakeProvider
from llmkit_plugins.testing.fake_provider import Fault

pytestmark = pytest.mark.filterwarnings("ignore:Item 'summary' on TypedDict:UserWarning")  # LiteLLM's own

PROMPT = [{"role": "user", "content": "hi there"}]
MODES = ("sync", "async", "sync stream", "async stream")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
async def connections() -> AsyncIterator[None]:
    """LiteLLM's connections are closed when the test ends."""
    with httpx.Client(verify=False) as litellm.client_session:
        async with httpx.AsyncClient(verify=False) as litellm.aclient_session:
            yield
    litellm.client_session = litellm.aclient_session = None
    litellm.in_memory_llm_clients_cache.flush_cache()
    litellm.logging_callback_manager._reset_all_callbacks()


@pytest.fixture
def providers() -> Iterator[tuple[FakeProvider, FakeProvider]]:
    """Those of the deployments ``a``, which is preferred, and ``b``."""
    with FakeProvider(reply="one two three") as first, FakeProvider(reply="four five") as second:
        yield first, second


@pytest.fixture
def settings() -> dict[str, Any]:
    """More of the plugin's settings."""
    return {}


@pytest.fixture
def kit(endpoint, protocol, plugin, settings) -> LLMKit:
    """Prefers ``a``; its spans go to the receiver, at the latest when it is closed."""
    observing = ObservabilityPlugin(own_registry=True, otlp_endpoint=endpoint, otlp_protocol=protocol, **settings)
    return LLMKit([observing, plugin(route=lambda call, targets: sorted(targets, key=lambda target: target.name))])


@pytest.fixture
def router(kit, providers) -> LLMKitRouter:
    """Both deployments in one group."""
    deployments = [
        {
            "model_name": "group",
            "litellm_params": {"model": f"openai/model-{name}", "api_base": provider.url, "api_key": "k"},
            "model_info": {"id": name},
        }
        for name, provider in zip("ab", providers, strict=True)
    ]
    return LLMKitRouter(model_list=deployments, kit=kit, num_retries=2, retry_after=0, disable_cooldowns=True)


@pytest.fixture
def root():
    """The application's own span."""
    with TracerProvider(shutdown_on_exit=False).get_tracer("app").start_as_current_span("app") as span:
        yield span.get_span_context()


async def ask(router: Any, mode: str, chunks: int | None = None, **given) -> None:
    """Ask, and read *chunks* of a stream (None: all) before it is closed."""
    if mode == "sync":
        await asyncio.to_thread(router.completion, "group", PROMPT, **given)
    elif mode == "async":
        await router.acompletion("group", PROMPT, **given)
    elif mode == "sync stream":
        await asyncio.to_thread(_read, router, chunks, given)
    else:
        stream = await router.acompletion("group", PROMPT, stream=True, **given)
        read = 0
        while read != chunks:
            if await anext(stream, None) is None:
                break
            read += 1
        await stream.aclose()


def _read(router, chunks, given):
    stream = router.completion("group", PROMPT, stream=True, **given)
    read = 0
    while read != chunks:
        if next(stream, None) is None:
            break
        read += 1
    stream.close()


def told(kit, inbox, trace_id: str, parent_id: str) -> list[tuple[str, str, str]]:
    """Each span of the trace: its name, its parent's and how it ended. None came twice, and none is elsewhere."""
    kit.close()
    spans = inbox.of(trace_id)
    assert len(spans) == len(inbox.spans) == len({span.span_id for span in spans})
    names = {span.span_id: span.name for span in spans} | {parent_id: "app"}
    return sorted((span.name, names[span.parent_id], span.attributes["llmkit.outcome"]) for span in spans)


def of(root) -> tuple[str, str]:
    return f"{root.trace_id:032x}", f"{root.span_id:016x}"


@pytest.mark.parametrize("mode", MODES)
async def test_a_failover_of_the_router(mode, router, kit, inbox, root, providers):
    """LiteLLM retries: one request, and below it the attempt that failed and the one that answered."""
    providers[0].fail_with(Fault("server_error"))
    await ask(router, mode)
    assert told(kit, inbox, *of(root)) == [
        ("chat model-a", "llmkit chat", "error"),
        ("chat model-b", "llmkit chat", "ok"),
        ("llmkit chat", "app", "ok"),
    ]
    assert [span.attributes.get("error.type") for span in inbox.spans if span.failed] == ["server"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_failed_call(mode, router, kit, inbox, root, providers):
    """Every try is there, failed, and so is the request."""
    for provider in providers:
        provider.fail_with(Fault("server_error"))
    with pytest.raises(litellm.InternalServerError):
        await ask(router, mode)
    ends = told(kit, inbox, *of(root))
    assert ends[-1] == ("llmkit chat", "app", "error")
    assert {end[1:] for end in ends[:-1]} == {("llmkit chat", "error")}
    assert len(ends) - 1 == sum(provider.stats.requests for provider in providers) == 3


@pytest.mark.parametrize("mode", ["async", "async stream"])
async def test_a_cancelled_call(mode, router, kit, inbox, root, providers):
    """A task that is cancelled while the provider works ends its spans, as cancelled."""
    providers[0].slow_down(first_token_seconds=60.0)
    task = asyncio.create_task(ask(router, mode))
    await asyncio.to_thread(providers[0].wait_until, lambda stats: stats.in_flight == 1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert told(kit, inbox, *of(root)) == [
        ("chat model-a", "llmkit chat", "cancelled"),
        ("llmkit chat", "app", "cancelled"),
    ]


@pytest.mark.parametrize("mode", ["sync stream", "async stream"])
async def test_an_abandoned_stream(mode, router, kit, inbox, root):
    """Left after the first chunk."""
    await ask(router, mode, chunks=1)
    assert told(kit, inbox, *of(root)) == [
        ("chat model-a", "llmkit chat", "cancelled"),
        ("llmkit chat", "app", "cancelled"),
    ]


@pytest.mark.parametrize("metadata", [{"traceparent": TRACEPARENT}, {"headers": {"traceparent": TRACEPARENT}}])
async def test_a_trace_that_came_with_the_request(metadata, router, kit, inbox):
    """What the proxy keeps of the client's headers is joined, also where no span is current."""
    await ask(router, "async", metadata=metadata)
    _, trace_id, parent_id, _ = TRACEPARENT.split("-")
    assert told(kit, inbox, trace_id, parent_id) == [
        ("chat model-a", "llmkit chat", "ok"),
        ("llmkit chat", "app", "ok"),
    ]


def on_the_wire(provider: FakeProvider) -> str | None:
    (seen,) = provider.requests
    assert seen.headers["x-mine"] == "1"
    return seen.headers.get("traceparent")


@pytest.mark.parametrize("settings", [{"propagate_trace": True}, {}], ids=["propagated", "not"])
@pytest.mark.parametrize("protocol", ["http"], indirect=True)
@pytest.mark.parametrize("given", ["headers", "extra_headers"])
@pytest.mark.parametrize("mode", MODES)
async def test_the_provider_is_told_of_the_trace(mode, given, settings, router, kit, inbox, root, providers):
    """Each attempt, a failed one too, has its own span on the wire, where that is asked for, beside other headers."""
    providers[0].fail_with(Fault("server_error"))
    await ask(router, mode, **{given: {"x-mine": "1"}})
    told(kit, inbox, *of(root))
    for provider, model in zip(providers, ("chat model-a", "chat model-b"), strict=True):
        (span,) = [span for span in inbox.spans if span.name == model]
        assert on_the_wire(provider) == (f"00-{span.trace_id}-{span.span_id}-01" if settings else None)


@pytest.mark.parametrize("settings", [{"propagate_trace": True, "content": True}], ids=["both"])
@pytest.mark.parametrize("protocol", ["http"], indirect=True)
@pytest.mark.parametrize("entrance", ["router", "sdk"])
@pytest.mark.parametrize("mode", MODES)
async def test_what_was_said(mode, entrance, settings, router, kit, inbox, root, providers):
    """Prompt and answer, streamed or not, through a Router or by the SDK; the SDK's provider is told as well."""
    if entrance == "sdk":
        install(kit)
    try:
        await ask(SDK(providers[0].url) if entrance == "sdk" else router, mode, extra_headers={"x-mine": "1"})
    finally:
        uninstall()
    assert on_the_wire(providers[0]) is not None
    told(kit, inbox, *of(root))
    (request,) = [span for span in inbox.spans if span.name == "llmkit chat"]
    assert "hi there" in request.attributes["gen_ai.input.messages"]
    (answer,) = json.loads(request.attributes["gen_ai.output.messages"])
    assert answer["parts"] == [{"type": "text", "content": "one two three"}]
    assert answer["finish_reason"] == "stop"


class SDK:
    """``litellm`` itself, asked as a Router is."""

    def __init__(self, url: str) -> None:
        self._where = {"api_base": url, "api_key": "k", "max_retries": 0}

    def completion(self, _: str, messages: Any, **given: Any) -> Any:
        return litellm.completion("openai/model-a", messages, **self._where, **given)

    async def acompletion(self, _: str, messages: Any, **given: Any) -> Any:
        return await litellm.acompletion("openai/model-a", messages, **self._where, **given)
