"""Each plugin hears each call and each attempt begin and end exactly once, whichever way it goes."""

from __future__ import annotations

import asyncio

import openai
import pytest

from llmkit_plugins.testing.fake_provider import Fault

PROMPT = [{"role": "user", "content": "hi there"}]


@pytest.fixture
def key(request, proxy, first, second):
    """A key that may make one request at once; after the test it may make another, however the first one ended."""
    key = f"sk-{request.node.name.replace('-', '')}--1"
    yield key
    first.heal()
    second.heal()
    proxy.wait(lambda: _may_ask(proxy.client(key)))


def _may_ask(client) -> bool:
    try:
        return ask(client, "whole", "free") in ("one two three", "four five")
    except openai.RateLimitError:
        return False


def ask(client, mode, model, **given):
    """The text of the answer."""
    answer = client.chat.completions.create(model=model, messages=PROMPT, stream=mode == "stream", **given)
    if mode == "whole":
        return answer.choices[0].message.content
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)


def test_ok(proxy, mode, key):
    """An answer of the first deployment."""
    assert ask(proxy.client(key), mode, f"ok {mode}") == "one two three"
    proxy.hears(f"ok {mode}", {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1})


def test_failover(proxy, mode, key, first):
    """The second one answers where the first one fails, and the client sees nothing of it."""
    first.fail_with(Fault("server_error"))
    assert ask(proxy.client(key), mode, f"failover {mode}") == "four five"
    expected = {"request": 1, "attempt": 2, "attempt error": 1, "attempt ok": 1, "request ok": 1}
    proxy.hears(f"failover {mode}", expected)


def test_user_over_the_limit(proxy, mode, first):
    """429 with Retry-After, before any provider is asked."""
    model, user = f"limited {mode}", f"limited-{mode}"
    assert ask(proxy.client(), mode, model, user=user) == "one two three"
    with pytest.raises(openai.RateLimitError) as raised:
        ask(proxy.client(), mode, model, user=user)
    assert int(raised.value.response.headers["retry-after"]) > 3600
    assert "requests 1/day per user" in str(raised.value)
    assert len(first.requests) == 1
    expected = {"request": 2, "attempt": 1, "attempt ok": 1, "request ok": 1, "request refused": 1}
    proxy.hears(model, expected)


def test_all_circuits_open(proxy, mode, first, second):
    """Once every deployment has failed often enough: 503 with Retry-After, and none of them is asked."""
    model = f"circuit {mode}"
    for provider in (first, second):
        provider.fail_with(Fault("server_error"))
    for _ in range(100):
        asked = len(first.requests) + len(second.requests)
        with pytest.raises(openai.InternalServerError) as raised:
            ask(proxy.client(), mode, model)
        if raised.value.status_code == 503:
            break
    assert int(raised.value.response.headers["retry-after"]) >= 1
    assert len(first.requests) + len(second.requests) == asked
    heard = proxy.heard(model)
    assert heard["request refused"] == 1
    proxy.hears(model, heard)
    assert heard["request"] == heard["request error"] + 1
    assert heard["attempt"] == heard["attempt error"] + heard["attempt refused"]


async def test_cancelled(proxy, mode, key, first):
    """A client that goes away while the provider thinks takes its request with it, and speaks ill of nobody."""
    model = f"cancelled {mode}"
    first.slow_down(first_token_seconds=60.0)
    async with proxy.aclient(key) as client:
        asking = client.chat.completions.create(model=model, messages=PROMPT, stream=mode == "stream")
        task = asyncio.create_task(asking)
        await asyncio.to_thread(first.wait_until, lambda stats: stats.in_flight == 1, 60.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await asyncio.to_thread(first.wait_until, lambda stats: stats.clients_left == 1, 60.0)
    expected = {"request": 1, "attempt": 1, "attempt cancelled": 1, "request cancelled": 1}
    await asyncio.to_thread(proxy.hears, model, expected)


def test_abandoned(proxy, key, first):
    """A client that leaves a stream half-way stops it at the provider."""
    model = "abandoned stream"
    first.slow_down(per_token_seconds=60.0)
    with proxy.client(key).chat.completions.create(model=model, messages=PROMPT, stream=True) as stream:
        next(stream)
    first.wait_until(lambda stats: stats.clients_left == 1, 60.0)
    expected = {"request": 1, "attempt": 1, "attempt cancelled": 1, "request cancelled": 1}
    proxy.hears(model, expected)


def test_all_down(proxy, mode, key, first, second):
    """Where every deployment fails, the client gets the provider's error, after LiteLLM's retries."""
    for provider in (first, second):
        provider.fail_with(Fault("server_error"))
    with pytest.raises(openai.InternalServerError) as raised:
        ask(proxy.client(key), mode, f"down {mode}")
    assert raised.value.status_code == 500
    proxy.hears(f"down {mode}", {"request": 1, "attempt": 3, "attempt error": 3, "request error": 1})
