"""Every way in which the fake provider fails, over real HTTP, and when it does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from llmkit_plugins.errors import ConfigError
from llmkit_plugins.testing.fake_provider import FakeProvider, Fault, ProviderStats
from llmkit_plugins.testing.fake_provider.delivery import EventStream

BODY = {"model": "m", "messages": [{"role": "user", "content": "say hello please"}]}
STREAM = {**BODY, "stream": True}
PATH = "/chat/completions"


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeProvider]]:
    """Starts providers with these faults, which are closed when the test ends."""
    with ExitStack() as stack:
        yield lambda *faults, **settings: stack.enter_context(
            FakeProvider(faults=faults, reply="one two three", **settings)
        )


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=10, trust_env=False) as client:
        yield client


@pytest.fixture
def statuses(client: httpx.Client) -> Callable[..., list[int]]:
    """The statuses of so many requests."""
    return lambda provider, count: [client.post(provider.url + PATH, json=BODY).status_code for _ in range(count)]


async def _give_up(provider: FakeProvider, body: Any, when: Callable[[ProviderStats], bool]) -> ProviderStats:
    """Ask, leave as soon as *when* holds, and return the stats when the provider has noticed."""
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        asking = asyncio.create_task(client.post(provider.url + PATH, json=body))
        await asyncio.to_thread(provider.wait_until, when)
        asking.cancel()
        return await asyncio.to_thread(provider.wait_until, lambda stats: stats.clients_left == stats.requests == 1)


def _read(lines: Iterator[str], count: int) -> list[Any]:
    """The data of the next *count* events."""
    data = (line.removeprefix("data: ") for line in lines if line)
    return [json.loads(text) for _, text in zip(range(count), data, strict=False)]


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("rate_limit", 429, "rate_limit_exceeded"),
        ("server_error", 500, None),
        ("overloaded", 503, None),
        ("bad_request", 400, None),
        ("auth", 401, "invalid_api_key"),
        ("not_found", 404, "model_not_found"),
        ("context_length", 400, "context_length_exceeded"),
        ("content_filter", 400, "content_filter"),
    ],
)
@pytest.mark.parametrize("body", [BODY, STREAM])
def test_error_statuses(serve, client, kind, status, code, body):
    """An error comes with its status, OpenAI's body and a request id, streamed or not, and costs nothing."""
    provider = serve(Fault(kind), output_price=1.0)
    answer = client.post(provider.url + PATH, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    assert (provider.stats.by_status, provider.stats.cost, provider.stats.clients_left) == ({status: 1}, 0, 0)


@pytest.mark.parametrize("status", [502, 504, 529])
def test_another_status(serve, client, status):
    """A fault may have another status than that of its kind."""
    assert client.post(serve(Fault("server_error", status=status)).url + PATH, json=BODY).status_code == status


def test_retry_after_is_told_in_every_form(serve, client):
    """A 429 tells the wait in whole seconds, in milliseconds, and as the reset of the limit that is used up."""
    headers = client.post(serve(Fault("rate_limit", retry_after=1.25)).url + PATH, json=BODY).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "1250")
    assert (headers["x-ratelimit-remaining-requests"], headers["x-ratelimit-reset-requests"]) == ("0", "1.25s")
    others = client.post(serve(Fault("overloaded", retry_after=3)).url + PATH, json=BODY).headers
    assert others["retry-after"] == "3"
    assert "x-ratelimit-reset-requests" not in others


def test_errors_apply_to_all_endpoints(serve, client):
    """Embeddings fail as chats do."""
    answer = client.post(serve(Fault("overloaded")).url + "/embeddings", json={"model": "m", "input": "a"})
    assert answer.status_code == 503


@pytest.mark.parametrize("body", [BODY, STREAM])
@pytest.mark.parametrize("kind", ["timeout", "stall"])
async def test_no_answer(serve, kind, body):
    """A timeout sends nothing, nor does a stall of a whole answer; the client that gives up is counted as gone."""
    provider = serve(Fault(kind))
    stats = await _give_up(provider, body, lambda stats: stats.in_flight == 1)
    assert stats.by_status == ({200: 1} if (kind, body) == ("stall", STREAM) else {})


@pytest.mark.parametrize(("after_chunks", "events"), [(None, 0), (0, 0), (1, 1), (3, 3)])
async def test_stall(serve, after_chunks, events):
    """A stream stalls after its headers and so many chunks; the client that leaves it is counted."""
    provider = serve(Fault("stall", after_chunks=after_chunks))
    async with (
        httpx.AsyncClient(timeout=10, trust_env=False) as client,
        client.stream("POST", provider.url + PATH, json=STREAM) as response,
    ):
        data = (line async for line in response.aiter_lines() if line)
        for _ in range(events):
            assert json.loads((await anext(data)).removeprefix("data: "))["choices"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(data), 0.05)
    stats = await asyncio.to_thread(provider.wait_until, lambda stats: stats.clients_left == 1)
    assert (stats.by_status, stats.completion_tokens) == ({200: 1}, max(0, events - 1))


@pytest.mark.parametrize("body", [BODY, STREAM])
def test_disconnect_before_the_response(serve, client, body):
    """Without a number of chunks the connection is cut before anything is sent, and no client is counted as gone."""
    provider = serve(Fault("disconnect"))
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        client.post(provider.url + PATH, json=body)
    stats = provider.wait_until(lambda stats: stats.in_flight == 0)
    assert (stats.by_status, stats.clients_left) == ({}, 0)


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_disconnect_within_a_stream(serve, client, chunks):
    """The connection is cut after exactly so many chunks."""
    provider = serve(Fault("disconnect", after_chunks=chunks))
    with client.stream("POST", provider.url + PATH, json=STREAM) as response:
        lines = response.iter_lines()
        assert len(_read(lines, chunks)) == chunks
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            _read(lines, 1)
    assert (provider.stats.by_status, provider.stats.clients_left) == ({200: 1}, 0)


def test_malformed(serve, client):
    """Malformed JSON comes as the whole answer, or as the last event of a stream."""
    provider = serve(Fault("malformed", after_chunks=2))
    with pytest.raises(json.JSONDecodeError):
        client.post(provider.url + PATH, json=BODY).json()
    with client.stream("POST", provider.url + PATH, json=STREAM) as response:
        lines = response.iter_lines()
        assert len(_read(lines, 2)) == 2
        with pytest.raises(json.JSONDecodeError):
            _read(lines, 1)
        assert list(lines) == [""]


@pytest.mark.parametrize("chunks", [0, 1])
def test_empty(serve, client, chunks):
    """An empty stream ends in good order before it has said anything; an empty whole answer has no body."""
    provider = serve(Fault("empty", after_chunks=chunks))
    with client.stream("POST", provider.url + PATH, json=STREAM) as response:
        lines = [line for line in response.iter_lines() if line]
    assert (len(lines), lines[-1]) == (chunks + 1, "data: [DONE]")
    answer = client.post(provider.url + PATH, json=BODY)
    assert (answer.status_code, answer.content) == (200, b"")
    assert provider.stats.completion_tokens == 0


def test_error_within_a_stream(serve, client):
    """An error after some chunks is an event of the stream, which then ends; whole answers have its status."""
    provider = serve(Fault("server_error", after_chunks=2))
    with client.stream("POST", provider.url + PATH, json=STREAM) as response:
        events = _read(response.iter_lines(), 9)
    assert response.status_code == 200
    assert len(events) == 3
    assert events[-1]["error"]["type"] == "server_error"
    assert client.post(provider.url + PATH, json=BODY).status_code == 500


def test_a_fault_after_more_chunks_than_there_are_does_not_hit(serve, client):
    """A stream that is shorter than the fault needs ends well."""
    provider = serve(Fault("disconnect", after_chunks=100))
    assert client.post(provider.url + PATH, json=STREAM).text.endswith("data: [DONE]\n\n")


def test_schedule(serve, statuses):
    """Faults hit the requests with their numbers, the first that fits counts."""
    provider = serve(Fault("rate_limit", on=[1, 3]), Fault("server_error", on=range(3, 5)))
    assert statuses(provider, 5) == [429, 200, 429, 500, 200]


def test_dies_and_recovers_while_it_runs(serve, statuses):
    """A provider can be made to fail and to heal while it runs; schedules count from when they were set."""
    provider = serve()
    assert statuses(provider, 2) == [200, 200]
    provider.fail_with(Fault("overloaded", on=[2, 3]))
    assert statuses(provider, 4) == [200, 503, 503, 200]
    provider.fail_with(Fault("auth"))
    assert statuses(provider, 2) == [401, 401]
    provider.heal()
    assert statuses(provider, 2) == [200, 200]


def test_other_changes_do_not_disturb_a_schedule(serve, statuses):
    """What is set while a schedule runs leaves it where it was; a reset begins it anew."""
    provider = serve(Fault("overloaded", on=[3]))
    assert statuses(provider, 2) == [200, 200]
    provider.change(reply="another")
    assert statuses(provider, 1) == [503]
    provider.reset()
    assert statuses(provider, 3) == [200, 200, 503]


def test_chance_is_seeded(serve, statuses):
    """The same seed deals the same faults to the same requests, another seed deals others."""
    fault = Fault("server_error", probability=0.5)
    first, same, other = (statuses(serve(fault, seed=seed), 32) for seed in (7, 7, 8))
    assert first == same != other
    assert {200, 500} == set(first)


def test_chance_begins_anew_with_a_reset(serve, statuses):
    """After a reset the same chances come again."""
    provider = serve(Fault("server_error", probability=0.5))
    before = statuses(provider, 16)
    provider.reset()
    assert statuses(provider, 16) == before


@pytest.mark.parametrize(("body", "tokens"), [(BODY, 0), (STREAM, 1)])
async def test_a_client_that_leaves_is_noticed(serve, body, tokens):
    """A client that gives up while it is answered slowly is counted, and so is what it got; its place is free."""
    provider = serve(per_token_seconds=3600.0)
    stats = await _give_up(provider, body, lambda stats: stats.in_flight == 1 and stats.completion_tokens == tokens)
    assert (stats.in_flight, stats.completion_tokens) == (0, tokens)


def test_a_client_found_gone_at_a_write_is_counted_once(serve, client, monkeypatch, caplog):
    """A client whose connection is found closed by writing to it is counted as gone, and logged nowhere."""
    send = EventStream.send

    async def send_too_late(response: EventStream, data: bytes) -> None:
        response._req.transport.abort()
        await send(response, data)

    monkeypatch.setattr(EventStream, "send", send_too_late)
    provider = serve()
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(provider.url + PATH, json=STREAM)
    stats = provider.wait_until(lambda stats: stats.clients_left > 0)
    provider.close()
    assert (stats.in_flight, provider.stats.clients_left, caplog.records) == (0, 1, [])


@pytest.mark.parametrize(
    ("kind", "options", "key"),
    [
        ("explode", {}, "kind"),
        ("stall", {"status": 500}, "status"),
        ("stall", {"retry_after": 1}, "retry_after"),
        ("server_error", {"status": 200}, "status"),
        ("rate_limit", {"retry_after": -1}, "retry_after"),
        ("rate_limit", {"probability": 1.5}, "probability"),
        ("rate_limit", {"probability": -0.5}, "probability"),
        ("rate_limit", {"on": 3}, "on"),
        ("disconnect", {"after_chunks": -1}, "after_chunks"),
        ("timeout", {"after_chunks": 1}, "after_chunks"),
    ],
)
def test_faults_that_cannot_be(kind, options, key):
    """What does not go together is an error that names the argument and says what would be right."""
    with pytest.raises(ConfigError) as caught:
        Fault(kind, **options)
    assert caught.value.key == key
    assert caught.value.right
