"""Identical requests in flight are one at the provider, whoever of the clients leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from llmkit_plugins.testing import FakeProvider

PROMPT = [{"role": "user", "content": "hi there"}]
CLIENTS = 50


@asynccontextmanager
async def busy(provider: FakeProvider) -> AsyncIterator[None]:
    """Inside, *provider* is at work for somebody else, and lets all other requests wait."""
    provider.change(max_in_flight=1, first_token_seconds=600.0)
    async with httpx.AsyncClient(timeout=None) as other:
        body = {"model": "m", "prompt": "p"}
        task = asyncio.create_task(other.post(f"{provider.url}/completions", json=body))
        await asyncio.to_thread(provider.wait_until, lambda stats: stats.in_flight == 1, 60.0)
        provider.heal()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def ask(client, mode, model, **given) -> str:
    """The text of the answer."""
    answer = await client.chat.completions.create(model=model, messages=PROMPT, stream=mode == "stream", **given)
    if mode == "whole":
        return answer.choices[0].message.content
    return "".join([chunk.choices[0].delta.content or "" async for chunk in answer if chunk.choices])


async def begun(proxy, model, times) -> None:
    """Wait until the proxy has begun so many requests."""
    await asyncio.to_thread(proxy.reaches, model, request=times)


async def test_identical_requests(proxy, mode, first, second):
    """Fifty clients, one request at the provider, and all of them get the same."""
    model = f"shared {mode}"
    async with proxy.aclient() as client:
        async with busy(first):
            tasks = [asyncio.create_task(ask(client, mode, model)) for _ in range(CLIENTS)]
            await begun(proxy, model, CLIENTS)
        assert await asyncio.gather(*tasks) == ["one two three"] * CLIENTS
    assert (first.stats.by_endpoint["chat"], len(second.requests)) == (1, 0)
    expected = {"request": CLIENTS, "attempt": 1, "attempt ok": 1, "request ok": 1, "request shared": CLIENTS - 1}
    await asyncio.to_thread(proxy.hears, model, expected)


async def test_the_wire(proxy, first):
    """What clients of one stream receive is the same to the byte, from the first chunk to [DONE]."""
    request = {"model": "wire", "messages": PROMPT, "stream": True, "stream_options": {"include_usage": True}}
    headers = {"authorization": "Bearer sk-ann--"}
    async with httpx.AsyncClient(base_url=proxy.url, headers=headers, timeout=60.0) as client:
        async with busy(first):
            asked = [asyncio.create_task(client.post("/v1/chat/completions", json=request)) for _ in range(3)]
            await begun(proxy, "wire", 3)
        bodies = [(await answer).text for answer in asked]
    assert len(set(bodies)) == 1
    assert bodies[0].count("data: ") == 7  # a role, three words, the end, the usage, [DONE]
    assert first.stats.by_endpoint["chat"] == 1


async def test_other_requests(proxy, first):
    """Another temperature, another team or a wish not to cache is another request."""
    others = [
        ("sk-ann--", {"temperature": 0.1}),
        ("sk-ann-team-", {}),
        ("sk-ann--", {"extra_body": {"cache": {"no-cache": True}}}),
        ("sk-ann--", {}),
    ]
    async with busy(first):
        tasks = [asyncio.create_task(_ask_once(proxy, key, **given)) for key, given in others]
        await asyncio.to_thread(proxy.reaches, "other", attempt=len(others))
    await asyncio.gather(*tasks)
    assert first.stats.by_endpoint["chat"] == len(others)


async def _ask_once(proxy, key, **given) -> None:
    async with proxy.aclient(key) as client:
        await ask(client, "whole", "other", **given)


async def test_the_first_client_leaves(proxy, mode, first):
    """The others get all of it, and the provider is asked once."""
    model = f"left {mode}"
    async with proxy.aclient() as leaves, proxy.aclient() as stays:
        async with busy(first):
            leader = asyncio.create_task(ask(leaves, mode, model))
            await begun(proxy, model, 1)
            tasks = [asyncio.create_task(ask(stays, mode, model)) for _ in range(2)]
            await begun(proxy, model, 3)
            leader.cancel()
            await asyncio.to_thread(proxy.reaches, model, **{"request cancelled": 1})
        assert await asyncio.gather(*tasks) == ["one two three"] * 2
    assert first.stats.by_endpoint["chat"] == 1
    heard = {"request": 3, "attempt": 1, "attempt ok": 1, "request cancelled": 1, "request shared": 2}
    await asyncio.to_thread(proxy.hears, model, heard)


async def test_all_clients_leave(proxy, mode, first):
    """Then the request to the provider is given up too."""
    model = f"empty {mode}"
    async with proxy.aclient() as client:
        first.slow_down(first_token_seconds=600.0)
        tasks = [asyncio.create_task(ask(client, mode, model)) for _ in range(3)]
        await begun(proxy, model, 3)
        await asyncio.to_thread(first.wait_until, lambda stats: stats.in_flight == 1, 60.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(first.wait_until, lambda stats: stats.clients_left == 1, 60.0)
    expected = {"request": 3, "attempt": 1, "attempt cancelled": 1, "request cancelled": 3}
    await asyncio.to_thread(proxy.hears, model, expected)


async def test_places_of_a_key_come_back(proxy, mode, first):
    """A key that may make six requests at once makes five identical ones, again and again."""
    model = f"slots {mode}"
    async with proxy.aclient("sk-ann--6") as client:
        for turn in range(1, 5):
            async with busy(first):
                tasks = [asyncio.create_task(ask(client, mode, model)) for _ in range(5)]
                await begun(proxy, model, 5 * turn)
            assert await asyncio.gather(*tasks) == ["one two three"] * 5
            assert first.stats.by_endpoint["chat"] == turn
            await asyncio.to_thread(proxy.reaches, model, **{"request shared": 4 * turn})


async def test_places_of_who_left_come_back(proxy, first):
    """The same where all of them leave half-way, again and again."""
    first.slow_down(per_token_seconds=600.0)
    async with proxy.aclient("sk-ann--3") as client:
        for turn in range(1, 4):
            await asyncio.gather(*(leave(client, "slots left") for _ in range(3)))
            await asyncio.to_thread(first.wait_until, lambda stats, turn=turn: stats.clients_left == turn, 60.0)
            await asyncio.to_thread(proxy.reaches, "slots left", **{"request cancelled": 3 * turn})
    assert first.stats.by_endpoint["chat"] == 3


async def leave(client, model) -> None:
    """Go away after the first chunk."""
    async with await client.chat.completions.create(model=model, messages=PROMPT, stream=True) as stream:
        await anext(stream)


async def test_their_own_callbacks(proxy, mode, first):
    """A callback of the platform's own hears of every client's success: one of them paid for it."""
    model = f"theirs {mode}"
    async with proxy.aclient() as client:
        async with busy(first):
            tasks = [asyncio.create_task(ask(client, mode, model)) for _ in range(4)]
            await begun(proxy, model, 4)
        await asyncio.gather(*tasks)
    await asyncio.to_thread(proxy.told, "theirs", 4, model=model)
    told = proxy.lines("theirs", model=model)
    assert {line["what"] for line in told} == {"success"}
    assert {line["user"] for line in told} == {"ann"}
    assert sorted(line["hit"] for line in told) == [False, True, True, True]
    assert all((line["cost"] == 0) == line["hit"] for line in told)
