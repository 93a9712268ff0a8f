"""Each plugin hears each call and each attempt begin and end exactly once, whichever way it goes."""

from __future__ import annotations

import asyncio
import gc

import litellm
import pytest

from llmkit_plugins import RateLimited, Refused, Usage
from llmkit_plugins.testing.fake_provider import Fault

GPT_4O_MINI = (0.15 * 2 + 0.60 * 3) / 1e6  # two words in, three out


async def test_ok(entrance, mode, ask, heard, recorder):
    """A call is answered by its first target, with its usage, cost, model and finish reason."""
    assert await ask(mode, entrance) == "one two three"
    assert heard() == {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1}
    call, attempt = recorder.calls[0], recorder.attempts[0]
    assert attempt.target.name == entrance.targets[0]
    assert (attempt.target.provider, attempt.model, attempt.finish_reason) == ("openai", "gpt-4o-mini", "stop")
    assert attempt.usage == call.response.usage == Usage(input_tokens=2, output_tokens=3)
    assert attempt.cost == call.response.cost == pytest.approx(GPT_4O_MINI)
    assert attempt.headers["x-request-id"].startswith("req_")
    assert (attempt.first_chunk is not None) == call.stream == mode.endswith("stream")


@pytest.mark.parametrize("kind", ["router", "installed"])
async def test_what_nobody_prices_is_not_free(enter, kind, mode, ask, recorder, deployment, first):
    """LiteLLM says 0 where it has no price: the cost is unknown."""
    entrance = enter(kind, model_list=[deployment("a", first, model="custom_openai/nobody-knows")])
    await ask(mode, entrance)
    assert recorder.attempts[0].usage is not None
    assert recorder.attempts[0].cost is None


async def test_failover(routed, mode, ask, heard, recorder, first):
    """Where the first target fails, LiteLLM retries and the second one answers."""
    first.fail_with(Fault("server_error"))
    assert await ask(mode, routed) == "four five"
    assert heard() == {"request": 1, "attempt": 2, "attempt error": 1, "attempt ok": 1, "request ok": 1}
    assert [(attempt.target.name, attempt.kind) for attempt in recorder.attempts] == [("a", "server"), ("b", None)]


async def test_headers_that_a_plugin_wants(entrance, mode, ask, kit, plugin, first):
    """What a plugin puts among an attempt's headers (a ``traceparent``) is sent, and the caller's own win."""

    def trace(call, attempt):
        attempt.request_headers = {"traceparent": f"attempt-{attempt.number}", "x-own": "plugin"}

    kit.register(plugin(pre_attempt=trace))
    await ask(mode, entrance, headers={"x-own": "caller"})
    headers = first.requests[0].headers
    assert (headers["traceparent"], headers["x-own"]) == ("attempt-1", "caller")


async def test_refused_before_the_request(entrance, mode, ask, heard, kit, plugin, first, second):
    """A spent limit is LiteLLM's own rate limit error and ours, says when to come back, and nobody is asked."""

    def refuse(call):
        raise RateLimited("per user", "u", 7.2)

    kit.register(plugin(pre_request=refuse))
    with pytest.raises(litellm.RateLimitError) as raised:
        await ask(mode, entrance)
    assert isinstance(raised.value, RateLimited)
    assert (raised.value.limit, raised.value.retry_after, raised.value.status_code) == ("per user", 7.2, 429)
    assert raised.value.headers == {"retry-after": "8"}
    assert heard() == {"request": 1, "request refused": 1}
    assert first.stats.requests == second.stats.requests == 0


async def test_refused_target(routed, mode, ask, heard, recorder, kit, plugin, first):
    """A target that a plugin refuses is passed over, and not asked."""

    def refuse(call, attempt):
        if attempt.target.name == "a":
            raise Refused("not this one")

    kit.register(plugin(pre_attempt=refuse))
    assert await ask(mode, routed) == "four five"
    assert heard() == {"request": 1, "attempt": 2, "attempt refused": 1, "attempt ok": 1, "request ok": 1}
    assert first.stats.requests == 0


async def test_every_target_refused(entrance, mode, ask, heard, kit, plugin, first, second):
    """Where all targets are refused, the caller gets LiteLLM's own error, with the shortest wait."""

    def refuse(call, attempt):
        raise Refused("closed", 5.0 if attempt.target.name == "a" else 3.0)

    kit.register(plugin(pre_attempt=refuse))
    with pytest.raises(litellm.ServiceUnavailableError) as raised:
        await ask(mode, entrance)
    assert isinstance(raised.value, Refused)
    assert raised.value.headers == {"retry-after": "3"}
    tried = len(entrance.targets)
    assert heard() == {"request": 1, "attempt": tried, "attempt refused": tried, "request refused": 1}
    assert first.stats.requests == second.stats.requests == 0


async def test_all_down(entrance, mode, ask, heard, recorder, first, second):
    """Where all fail, the caller gets the provider's last error, as LiteLLM raises it."""
    first.fail_with(Fault("server_error"))
    second.fail_with(Fault("server_error"))
    with pytest.raises(litellm.InternalServerError) as raised:
        await ask(mode, entrance)
    assert recorder.errors == [type(raised.value)]
    tried = 1 if entrance.kind == "sdk" else 3  # the Router retries twice
    assert heard() == {"request": 1, "attempt": tried, "attempt error": tried, "request error": 1}
    names = [attempt.target.name for attempt in recorder.attempts]
    assert names == (entrance.targets if entrance.kind == "sdk" else ["a", "b", "a"])


@pytest.mark.parametrize("mode", ["async", "async stream"])
async def test_cancelled(entrance, mode, ask, heard, first):
    """A caller that is cancelled while it waits cancels the request to the provider, and speaks ill of nobody."""
    first.slow_down(first_token_seconds=60.0)
    task = asyncio.create_task(ask(mode, entrance))
    await asyncio.to_thread(first.wait_until, lambda stats: stats.in_flight == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard() == {"request": 1, "attempt": 1, "attempt cancelled": 1, "request cancelled": 1}
    await asyncio.to_thread(first.wait_until, lambda stats: stats.clients_left == 1)


@pytest.mark.parametrize("how", ["close", "drop"])
@pytest.mark.parametrize("mode", ["sync stream", "async stream"])
async def test_abandoned(entrance, mode, how, heard, recorder, first):
    """A stream that is closed or dropped half-way cancels the request to the provider, and keeps what it had."""
    first.slow_down(per_token_seconds=60.0)
    if mode == "sync stream":
        await asyncio.to_thread(_leave, entrance, how)
    else:
        await _aleave(entrance, how)
        await asyncio.sleep(0.05)  # what is dropped is closed by the event loop
    assert heard() == {"request": 1, "attempt": 1, "attempt cancelled": 1, "request cancelled": 1}
    assert recorder.attempts[0].model == "gpt-4o-mini"
    await asyncio.to_thread(first.wait_until, lambda stats: stats.clients_left == 1)


def _leave(entrance, how):
    stream = entrance.completion(stream=True)
    next(stream)
    if how == "close":
        stream.close()


async def _aleave(entrance, how):
    stream = await entrance.acompletion(stream=True)
    await anext(stream)
    if how == "close":
        await stream.aclose()


# LiteLLM makes the coroutine that sends in a thread, and forgets it where it is cancelled meanwhile
@pytest.mark.filterwarnings("ignore:coroutine 'OpenAIChatCompletion.acompletion' was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:coroutine 'OpenAIChatCompletion.async_streaming' was never awaited:RuntimeWarning")
# nor does httpx close a socket that was cancelled while it connected
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("mode", ["async", "async stream"])
async def test_cancelled_at_any_moment(entrance, mode, ask, kit, recorder, first):
    """Whenever a caller is cancelled, what began for it has ended when it is gone, and the provider is left."""
    first.slow_down(per_token_seconds=0.005)
    for turns in range(0, 400, 16):
        task = asyncio.create_task(ask(mode, entrance))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not recorder.open, turns
        assert not kit.leases, turns
    await asyncio.to_thread(first.wait_until, lambda stats: stats.in_flight == 0)
    gc.collect()
