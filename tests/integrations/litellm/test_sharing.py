"""Identical calls in flight share one upstream, whichever way they go."""

from __future__ import annotations

import asyncio

import litellm
import pytest

from llmkit_plugins import Share, UpstreamLost
from llmkit_plugins.testing.fake_provider import Fault


@pytest.fixture
def kit(kit, plugin):
    """A kit where identical prompts share."""
    kit.register(plugin("sharing", pre_request=lambda call: Share(repr((call.model, call.messages)))))
    return kit


@pytest.mark.parametrize("mode", ["async", "async stream"])
async def test_twenty_callers_one_request(entrance, mode, ask, heard, first):
    """Twenty callers at once are one upstream request, and each has the whole answer."""
    first.slow_down(first_token_seconds=0.1)
    answers = await asyncio.gather(*(ask(mode, entrance) for _ in range(20)))
    assert answers == ["one two three"] * 20
    assert first.stats.requests == 1
    assert heard() == {"request": 20, "attempt": 1, "attempt ok": 1, "request ok": 1, "request shared": 19}


@pytest.mark.parametrize("mode", ["sync", "sync stream"])
def test_threads(entrance, mode, in_threads, first, heard):
    """So are callers in threads."""
    first.slow_down(first_token_seconds=0.3)

    def one():
        answer = entrance.completion(stream=mode == "sync stream")
        if mode == "sync":
            return answer.choices[0].message.content
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer)

    assert in_threads(*[one] * 5) == ["one two three"] * 5
    assert first.stats.requests == 1
    assert heard() == {"request": 5, "attempt": 1, "attempt ok": 1, "request ok": 1, "request shared": 4}


@pytest.mark.parametrize("stream", [False, True])
async def test_each_caller_has_his_own_id(entrance, first, stream):
    """The answer tells each caller the id of his own call, by which he finds it in logs and traces."""
    first.slow_down(first_token_seconds=0.1)
    asked = [entrance.acompletion(stream=stream, litellm_call_id=name) for name in ("ann", "bob")]
    answers = await asyncio.gather(*asked)
    assert [answer._hidden_params["litellm_call_id"] for answer in answers] == ["ann", "bob"]
    if stream:
        for answer in answers:
            assert [chunk async for chunk in answer]
    assert first.stats.requests == 1


async def test_a_late_joiner_gets_all_of_it(entrance, heard, first):
    """Who joins in the middle of a stream gets it from its first chunk, at once."""
    first.slow_down(per_token_seconds=0.05)
    leader = await entrance.acompletion(stream=True)
    chunks = [await anext(leader) for _ in range(3)]
    follower = await entrance.acompletion(stream=True)
    texts = [
        "".join(chunk.choices[0].delta.content or "" for chunk in [*had, *[chunk async for chunk in stream]])
        for had, stream in ((chunks, leader), ([], follower))
    ]
    assert texts == ["one two three"] * 2
    assert first.stats.requests == 1


async def test_a_leader_that_leaves(entrance, heard, first, ask):
    """Where the first caller leaves, the others get their answer; when all leave, the provider is left."""
    first.slow_down(per_token_seconds=0.05)
    leader = await entrance.acompletion(stream=True)
    await anext(leader)
    follower = asyncio.create_task(ask("async stream", entrance))
    await asyncio.sleep(0.01)
    await leader.aclose()
    assert await follower == "one two three"
    assert heard() == {"request": 2, "attempt": 1, "attempt ok": 1, "request cancelled": 1, "request shared": 1}


async def test_all_leave(entrance, heard, first):
    """Where all callers leave, so does the request to the provider."""
    first.slow_down(per_token_seconds=60.0)
    streams = [await entrance.acompletion(stream=True) for _ in range(3)]
    for stream in streams:
        await anext(stream)
        await stream.aclose()
    await asyncio.to_thread(first.wait_until, lambda stats: stats.clients_left == 1)
    assert heard() == {"request": 3, "attempt": 1, "attempt cancelled": 1, "request cancelled": 3}


@pytest.mark.parametrize("mode", ["async", "async stream"])
async def test_a_shared_failure(routed, mode, ask, heard, first, second):
    """One series of retries serves all, and all get its error."""
    for provider in (first, second):
        provider.fail_with(Fault("server_error"))
    results = await asyncio.gather(*(ask(mode, routed) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [litellm.InternalServerError] * 5
    assert first.stats.requests + second.stats.requests == 3
    assert heard() == {"request": 5, "attempt": 3, "attempt error": 3, "request error": 5}


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_are_ones_own(entrance, stream, first):
    """Each caller has objects of its own: LiteLLM and its users write into them."""
    first.slow_down(first_token_seconds=0.1)
    one, other = await asyncio.gather(*(entrance.acompletion(stream=stream) for _ in range(2)))
    if stream:
        assert one._hidden_params["additional_headers"] is not other._hidden_params["additional_headers"]
        one, other = [chunk async for chunk in one][1], [chunk async for chunk in other][1]
    one.choices[0].index = 9
    one._hidden_params["mine"] = True
    assert other.choices[0].index == 0
    assert "mine" not in other._hidden_params


async def test_a_kit_that_is_closed(entrance, kit, first, heard):
    """Who shares a stream of a kit that is closed gets an error that LiteLLM's users can retry on."""
    first.slow_down(per_token_seconds=60.0)
    stream = await entrance.acompletion(stream=True)
    await anext(stream)
    await kit.aclose()
    with pytest.raises(litellm.APIConnectionError) as raised:
        [chunk async for chunk in stream]
    assert isinstance(raised.value, UpstreamLost)
    with pytest.raises(litellm.ServiceUnavailableError, match="closed"):
        await entrance.acompletion()
