"""Streams: invisible failover before the first word, none after it, and who ends when."""

from __future__ import annotations

import asyncio
import gc

import litellm
import openai
import pytest
from llmkit_litellm import LLMKitRouter

from llmkit_plugins import Answer, LLMKit, Response
from llmkit_plugins.testing import ManualClock
from llmkit_plugins.testing.fake_provider import Fault

PROMPT = [{"role": "user", "content": "hi there"}]
OK = {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1}


@pytest.fixture(params=["sync stream", "async stream"])
def mode(request):
    """The two ways to stream."""
    return request.param


@pytest.fixture
def read():
    """``await read(mode, entrance, number)``: that many chunks of a stream, and the stream itself."""

    async def read(mode, entrance, number):
        if mode == "sync stream":
            stream = await asyncio.to_thread(entrance.completion, stream=True)
            return [await asyncio.to_thread(next, stream) for _ in range(number)], stream
        stream = await entrance.acompletion(stream=True)
        return [await anext(stream) for _ in range(number)], stream

    return read


@pytest.fixture
def close():
    """``await close(mode, stream)``."""

    async def close(mode, stream):
        if mode == "sync stream":
            await asyncio.to_thread(stream.close)
        else:
            await stream.aclose()

    return close


BEFORE_THE_FIRST_WORD = [
    Fault("disconnect"),
    Fault("disconnect", after_chunks=1),
    Fault("empty"),
    Fault("empty", after_chunks=1),
    Fault("malformed", after_chunks=1),
    Fault("server_error", after_chunks=1),
]


@pytest.mark.parametrize("fault", BEFORE_THE_FIRST_WORD, ids=lambda fault: f"{fault.kind}-{fault.after_chunks}")
async def test_a_failure_before_the_first_word(routed, mode, ask, heard, first, fault):
    """A stream that breaks before it has said anything, even after its role chunk, is retried elsewhere."""
    first.fail_with(fault)
    assert await ask(mode, routed) == "four five"
    assert heard() == {"request": 1, "attempt": 2, "attempt error": 1, "attempt ok": 1, "request ok": 1}


@pytest.mark.parametrize("chunks", [0, 1])
async def test_an_empty_stream(entrance, mode, ask, recorder, first, second, chunks):
    """A stream that ends without a word is a failure of the provider, whatever end LiteLLM makes up for it."""
    for provider in (first, second):
        provider.fail_with(Fault("empty", after_chunks=chunks))
    with pytest.raises(openai.APIError):
        await ask(mode, entrance)
    assert {attempt.kind for attempt in recorder.attempts} <= {"server", "connection"}  # since 1.109 LiteLLM raises too
    assert {(attempt.outcome, attempt.finish_reason) for attempt in recorder.attempts} == {("error", None)}


async def test_a_failure_after_the_first_word(entrance, mode, ask, heard, first, second, recorder):
    """A stream that breaks in the middle is not continued elsewhere; its reader gets LiteLLM's error."""
    first.fail_with(Fault("server_error", after_chunks=3))
    with pytest.raises(openai.APIError):
        await ask(mode, entrance)
    assert heard() == {"request": 1, "attempt": 1, "attempt error": 1, "request error": 1}
    assert recorder.attempts[0].kind is not None
    assert second.stats.requests == 0


async def test_who_leaves_after_the_last_word_has_his_answer(entrance, mode, read, close, heard, recorder):
    """A stream that is closed after its finish reason has ended well."""
    chunks, stream = await read(mode, entrance, 5)
    assert chunks[-1].choices[0].finish_reason == "stop"
    await close(mode, stream)
    assert heard() == OK


async def test_the_attempt_ends_before_the_call(entrance, mode, read, close, kit, plugin):
    """Where a stream is abandoned, the end of the attempt is told before that of the call."""
    told = []
    kit.register(
        plugin(post_attempt=lambda call, attempt: told.append("attempt"), error=lambda call, error: told.append("call"))
    )
    _, stream = await read(mode, entrance, 1)
    await close(mode, stream)
    assert told == ["attempt", "call"]


async def test_a_stream_that_nobody_reads(entrance, mode, read, heard, first):
    """A stream that is dropped before it was read is cancelled."""
    first.slow_down(per_token_seconds=60.0)
    await read(mode, entrance, 0)
    gc.collect()
    await asyncio.to_thread(first.wait_until, lambda stats: stats.clients_left == 1)
    await asyncio.sleep(0)
    assert heard() == {"request": 1, "attempt": 1, "attempt cancelled": 1, "request cancelled": 1}


async def test_it_is_litellms_class(entrance, mode, read, close):
    """The caller gets a ``CustomStreamWrapper`` with what LiteLLM knows of the response."""
    _, stream = await read(mode, entrance, 1)
    assert isinstance(stream, litellm.CustomStreamWrapper)
    assert stream._hidden_params["model_id"] == (None if entrance.kind == "sdk" else "a")
    assert "llm_provider-x-request-id" in stream._hidden_params["additional_headers"]
    assert stream.model == "gpt-4o-mini"
    await close(mode, stream)


async def test_a_slow_reader_is_not_a_slow_provider(recorder, mode, deployment, first, settings, read, close):
    """The time between chunks that the reader takes is not the provider's."""
    clock = ManualClock()
    with LLMKit([recorder], clock=clock) as kit:
        router = LLMKitRouter(model_list=[deployment("a", first)], kit=kit, **settings)

        class Slow:
            def completion(self, **given):
                return router.completion("group", PROMPT, **given)

            async def acompletion(self, **given):
                return await router.acompletion("group", PROMPT, **given)

        _, stream = await read(mode, Slow(), 2)
        clock.advance(30.0)
        await (asyncio.to_thread(next, stream) if mode == "sync stream" else anext(stream))
        clock.advance(2.0)
        await close(mode, stream)
    (attempt,) = recorder.attempts
    assert (attempt.paused_seconds, attempt.duration) == (30.0, 2.0)


@pytest.mark.parametrize("chunks", [("x",), ("x", "y")])
async def test_a_plugins_answer(entrance, mode, kit, plugin, heard, first, chunks):
    """A plugin can answer a stream by itself; the caller gets LiteLLM's class, and nobody is asked."""
    kit.register(plugin(pre_request=lambda call: Answer(Response(), chunks)))
    if mode == "sync stream":
        stream = entrance.completion(stream=True)
        assert tuple(stream) == chunks
    else:
        stream = await entrance.acompletion(stream=True)
        assert tuple([chunk async for chunk in stream]) == chunks
    assert isinstance(stream, litellm.CustomStreamWrapper)
    assert heard() == {"request": 1, "request ok": 1}
    assert first.stats.requests == 0


async def test_a_sync_stream_in_a_notebook(routed, heard, first):
    """The sync Router under a running event loop, where LiteLLM changes threads, is heard as anywhere."""
    first.fail_with(Fault("server_error"))
    stream = routed.completion(stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "four five"
    assert heard() == {"request": 1, "attempt": 2, "attempt error": 1, "attempt ok": 1, "request ok": 1}
