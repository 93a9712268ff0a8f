"""The fake provider over real HTTP: what it answers, at what pace, and what it counts."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, get_type_hints

import httpx
import pytest

from llmkit_plugins.errors import ConfigError
from llmkit_plugins.testing.fake_provider import Behaviour, Constant, FakeProvider, Fault, LogNormal, Uniform
from llmkit_plugins.testing.fake_provider.behaviour import BehaviourSettings

AN_HOUR = 3600.0
HELLO = [{"role": "user", "content": "say hello please"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
            "required": ["city"],
        },
    },
}


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeProvider]]:
    """Starts providers that are closed when the test ends."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(FakeProvider(**settings))


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=10, trust_env=False) as client:
        yield client


@pytest.fixture
def ask(client: httpx.Client) -> Callable[..., httpx.Response]:
    """Posts a request to one of a provider's endpoints."""

    def ask(provider: FakeProvider, path: str = "chat/completions", **body: Any) -> httpx.Response:
        return client.post(f"{provider.url}/{path}", json=_body(path, body))

    return ask


@pytest.fixture
def events(client: httpx.Client) -> Callable[..., list[Any]]:
    """The data of all events of a streamed answer."""

    def events(provider: FakeProvider, path: str = "chat/completions", **body: Any) -> list[Any]:
        with client.stream("POST", f"{provider.url}/{path}", json=_body(path, {**body, "stream": True})) as response:
            data = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        return [text if text == "[DONE]" else json.loads(text) for text in data]

    return events


def _body(path: str, body: dict[str, Any]) -> dict[str, Any]:
    usual = {
        "chat/completions": {"messages": HELLO},
        "completions": {"prompt": "once upon"},
        "embeddings": {"input": "a text"},
    }
    return {"model": "m", **usual[path], **body}


def _text(events: list[Any], index: int = 0) -> str:
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices if choice["index"] == index)


def test_answers_in_openais_form(serve, ask):
    """A chat is answered with the reply and with the words of both sides counted as tokens."""
    answer = ask(serve(reply="Hello there, friend.")).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "m"
    assert answer["choices"][0]["message"]["content"] == "Hello there, friend."
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert {key: answer["usage"][key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
    }


def test_streams_one_event_for_each_word_after_an_empty_one(serve, events):
    """A stream begins with the role and no content, has one event for each word, the finish reason and the end mark."""
    seen = events(serve(reply="one  two\nthree"))
    assert seen[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [event["choices"][0]["delta"].get("content") for event in seen[1:-1]] == ["one", "  two", "\nthree", None]
    assert seen[-2]["choices"][0]["finish_reason"] == "stop"
    assert seen[-1] == "[DONE]"
    assert len({event["id"] for event in seen[:-1]}) == 1


def test_every_event_is_written_by_itself(serve):
    """Without latency each event still arrives as a chunk of its own."""
    request = json.dumps({"model": "m", "messages": HELLO, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(request)}\r\n\r\n"
    )
    with socket.create_connection(_address(serve(reply="one two"))) as raw:
        raw.sendall(head.encode() + request)
        body = b"".join(iter(lambda: raw.recv(65536), b"")).split(b"\r\n\r\n", 1)[1]
    sizes_and_chunks = body.split(b"\r\n")
    assert [chunk.count(b"data: ") for chunk in sizes_and_chunks[1::2] if chunk] == [1, 1, 1, 1, 1]


def test_usage_comes_in_the_last_chunk_when_asked_for(serve, events):
    """With include_usage every chunk says null and one more, without choices, tells the usage."""
    seen = events(serve(reply="one two"), stream_options={"include_usage": True})
    assert [event["usage"] for event in seen[:-2]] == [None] * 4
    assert seen[-2]["choices"] == []
    assert seen[-2]["usage"]["total_tokens"] == 5
    assert "usage" not in events(serve())[0]


def test_reports_cached_and_reasoning_tokens(serve, ask):
    """Cached tokens are at most those of the prompt; reasoning counts among the completion tokens."""
    usage = ask(serve(reply="one two", cached_tokens=100, reasoning_tokens=10)).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 3
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 10
    assert usage["completion_tokens"] == 12


def test_replies_take_turns(serve, ask):
    """Several replies are given in turn, from the first again after a reset."""
    provider = serve(reply=["a", "b"])

    def say() -> str:
        return ask(provider).json()["choices"][0]["message"]["content"]

    assert [say(), say(), say()] == ["a", "b", "a"]
    provider.reset()
    assert say() == "a"


def test_reply_may_be_a_function_of_the_request(serve, ask):
    """A function gets the body of the request and makes the reply."""
    provider = serve(reply=lambda body: body["messages"][-1]["content"].upper())
    assert ask(provider).json()["choices"][0]["message"]["content"] == "SAY HELLO PLEASE"


def test_a_reply_that_raises_is_a_server_error(serve, ask, caplog):
    """A bug in the function that replies is logged and answered with 500, and the provider lives on."""
    provider = serve(reply=lambda body: body["not there"])
    assert ask(provider).status_code == 500
    assert "KeyError" in caplog.text
    assert provider.stats.by_status == {500: 1}
    assert provider.stats.in_flight == 0
    provider.change(reply="well")
    assert ask(provider).status_code == 200


def test_several_choices(serve, ask, events):
    """n asks for that many choices, each with its own reply, all streamed side by side."""
    provider = serve(reply=["a b", "c d"])
    answer = ask(provider, n=2).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["a b", "c d"]
    assert answer["usage"]["completion_tokens"] == 4
    provider.change(reply=["a b", "c"])
    seen = events(provider, n=2)
    assert (_text(seen), _text(seen, 1)) == ("a b", "c")
    assert [event["choices"][0]["index"] for event in seen[:-1]] == [0, 1, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_stops_at_the_most_tokens(serve, ask, events, name):
    """A reply is cut at the tokens allowed, and says so."""
    provider = serve(reply="one two three")
    choice = ask(provider, **{name: 2}).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two", "length")
    seen = events(provider, **{name: 2})
    assert (_text(seen), seen[-2]["choices"][0]["finish_reason"]) == ("one two", "length")
    assert ask(provider, **{name: 3}).json()["choices"][0]["finish_reason"] == "stop"


def test_calls_the_tool_after_a_user(serve, ask):
    """After a user's message the first tool is called, with arguments that fit its schema."""
    choice = ask(serve(), tools=[WEATHER]).json()["choices"][0]
    call = choice["message"]["tool_calls"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "text", "days": 2}


def test_streams_a_tool_call(serve, events):
    """A streamed tool call names the tool once and then gives the arguments piece by piece."""
    seen = events(serve(), tools=[WEATHER])
    first = seen[0]["choices"][0]["delta"]["tool_calls"][0]
    rest = [event["choices"][0]["delta"]["tool_calls"][0] for event in seen[1:-2]]
    assert (first["index"], first["function"]) == (0, {"name": "weather", "arguments": ""})
    assert json.loads("".join(call["function"]["arguments"] for call in rest)) == {"city": "text", "days": 2}
    assert all(set(call) == {"index", "function"} for call in rest)
    assert seen[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_calls_one_tool_after_the_other(serve, ask):
    """Each tool is called once after a user's message, in their order, whatever was called before that."""
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}
    told = {"role": "tool", "tool_call_id": "1", "content": "sunny"}
    called = []
    for results in range(3):
        turns = [*HELLO, told, told, *HELLO, *[{"role": "assistant", "tool_calls": []}, told] * results]
        message = ask(serve(), tools=[WEATHER, other], messages=turns).json()["choices"][0]["message"]
        called.append([call["function"]["name"] for call in message.get("tool_calls", [])])
    assert called == [["weather"], ["other"], []]


def test_answers_in_text_after_a_tool(serve, ask):
    """Once the tool has answered, the provider answers in text."""
    turns = [*HELLO, {"role": "assistant", "tool_calls": []}, {"role": "tool", "tool_call_id": "1", "content": "sunny"}]
    message = ask(serve(reply="It is sunny."), tools=[WEATHER], messages=turns).json()["choices"][0]["message"]
    assert message["content"] == "It is sunny."
    assert "tool_calls" not in message


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("none", None),
        ("auto", "weather"),
        ("required", "weather"),
        ({"type": "function", "function": {"name": "other"}}, "other"),
    ],
)
def test_tool_choice_is_honoured(serve, ask, choice, called):
    """tool_choice decides whether a tool is called, and which."""
    other = {"type": "function", "function": {"name": "other"}}
    message = ask(serve(), tools=[WEATHER, other], tool_choice=choice).json()["choices"][0]["message"]
    assert [call["function"]["name"] for call in message.get("tool_calls", [])] == ([called] if called else [])


def test_a_required_tool_is_called_after_a_tool_too(serve, ask):
    """A required tool is called whoever spoke last."""
    turns = [{"role": "tool", "tool_call_id": "1", "content": "sunny"}]
    body = {"tools": [WEATHER], "messages": turns, "tool_choice": "required"}
    assert ask(serve(), **body).json()["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("form", "reply", "expected"),
    [
        ({"type": "text"}, "plain", "plain"),
        ({"type": "json_object"}, "plain", {"answer": "plain"}),
        ({"type": "json_object"}, '{"mine": 1}', {"mine": 1}),
        (
            {"type": "json_schema", "json_schema": {"schema": WEATHER["function"]["parameters"]}},
            "plain",
            {"city": "text", "days": 2},
        ),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, '{"mine": 1}', {"mine": 1}),
    ],
)
def test_response_format_is_honoured(serve, ask, form, reply, expected):
    """JSON is answered where JSON is asked for: the reply where it is JSON, else what fits."""
    content = ask(serve(reply=reply), response_format=form).json()["choices"][0]["message"]["content"]
    assert (content if isinstance(expected, str) else json.loads(content)) == expected


def test_completions(serve, ask, events):
    """The older endpoint continues every prompt n times, whole or streamed."""
    provider = serve(reply="and then some")
    answer = ask(provider, "completions", prompt=["once upon", "a time"], n=2, max_tokens=2).json()
    assert answer["object"] == "text_completion"
    assert [(choice["text"], choice["finish_reason"]) for choice in answer["choices"]] == [("and then", "length")] * 4
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (4, 8)
    seen = events(provider, "completions")
    assert [event["choices"][0]["text"] for event in seen[:-1]] == ["and", " then", " some", ""]


def test_embeddings(serve, ask):
    """Equal texts have equal vectors of length 1, others have others, in as many dimensions as asked for."""
    answer = ask(serve(), "embeddings", input=["a b", "c", "a b"], dimensions=8).json()
    first, second, third = (item["embedding"] for item in answer["data"])
    assert first == third != second
    assert len(first) == 8
    assert sum(value * value for value in first) == pytest.approx(1)
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


def test_embeddings_in_base64(serve, ask):
    """base64 holds the same numbers as 32-bit floats; token ids are embedded as well."""
    provider = serve()
    plain = ask(provider, "embeddings", input=[1, 2, 3]).json()["data"]
    packed = ask(provider, "embeddings", input=[1, 2, 3], encoding_format="base64").json()["data"]
    assert len(plain) == len(packed) == 1
    assert list(array("f", base64.b64decode(packed[0]["embedding"]))) == pytest.approx(plain[0]["embedding"], abs=1e-6)


def test_models_and_health(serve, ask, client):
    """It lists its models, answers 404 for one it does not have, and says that it is up."""
    provider = serve(models=["small", "large"])
    assert [model["id"] for model in client.get(provider.url + "/models").json()["data"]] == ["small", "large"]
    assert ask(provider, model="large").status_code == 200
    missing = ask(provider, model="huge")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert client.get(provider.url.removesuffix("/v1") + "/").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", {"model": None}, None),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": ["hello"]}, "messages"),
        ("chat/completions", {"n": 0}, "n"),
        ("chat/completions", {"max_tokens": "many"}, "max_tokens"),
        ("chat/completions", {"tools": [{"name": "weather", "input_schema": {}}]}, "tools[0]"),
        ("chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("chat/completions", {"tool_choice": "perhaps"}, "tool_choice"),
        ("chat/completions", {"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ("completions", {"prompt": ""}, "prompt"),
        ("embeddings", {"input": []}, "input"),
    ],
)
def test_requests_that_are_not_valid(serve, ask, path, body, param):
    """What OpenAI refuses is refused with 400 and the parameter's name."""
    answer = ask(serve(), path, **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("content", [b"{", b"[1]", b""])
def test_a_body_that_is_not_an_object(serve, client, content):
    """A body that is not a JSON object is refused with 400."""
    assert client.post(serve().url + "/chat/completions", content=content).status_code == 400


async def test_first_token_takes_its_time(serve):
    """Until the first token nothing is sent; a client with less patience is counted."""
    provider = serve(first_token_seconds=AN_HOUR)
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        asking = asyncio.create_task(
            client.post(provider.url + "/chat/completions", json={"model": "m", "messages": HELLO})
        )
        await asyncio.to_thread(provider.wait_until, lambda stats: stats.in_flight == 1)
        asking.cancel()
        stats = await asyncio.to_thread(provider.wait_until, lambda stats: stats.clients_left == 1)
    assert stats.by_status == {}


def test_each_token_takes_its_time(serve, client):
    """The first token of a stream comes at once where only the following ones are slow."""
    provider = serve(per_token_seconds=AN_HOUR, reply="one two")
    body = {"model": "m", "messages": HELLO, "stream": True}
    with client.stream("POST", provider.url + "/chat/completions", json=body) as response:
        seen = [
            json.loads(line.removeprefix("data: "))
            for _, line in zip(range(3), response.iter_lines(), strict=False)
            if line
        ]
        assert [event["choices"][0]["delta"]["content"] for event in seen] == ["", "one"]
    stats = provider.wait_until(lambda stats: stats.clients_left == 1)
    assert (stats.prompt_tokens, stats.completion_tokens) == (3, 1)


async def test_beyond_its_capacity_requests_wait_in_turn(serve):
    """Of three requests to a provider that takes one, two wait; each goes on when the one before has ended or left."""
    provider = serve(max_in_flight=1, faults=[Fault("timeout", on=[1])])
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        tasks = []
        for number in range(3):
            body = {"model": "m", "messages": HELLO, "user": str(number)}
            tasks.append(asyncio.create_task(client.post(provider.url + "/chat/completions", json=body)))
            await asyncio.to_thread(
                provider.wait_until, lambda stats, n=number: (stats.in_flight, stats.queued) == (1, n)
            )
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks[1:])
    assert [answer.status_code for answer in answers] == [200, 200]
    assert (provider.stats.peak_in_flight, provider.stats.clients_left) == (1, 1)
    assert [request.user for request in provider.requests] == ["0", "1", "2"]


async def test_raised_capacity_lets_the_waiting_in(serve):
    """Capacity can be raised while requests wait."""
    provider = serve(max_in_flight=1, faults=[Fault("timeout", on=[1])])
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        post = partial(client.post, provider.url + "/chat/completions", json={"model": "m", "messages": HELLO})
        stuck = asyncio.create_task(post())
        await asyncio.to_thread(provider.wait_until, lambda stats: stats.in_flight == 1)
        waiting = asyncio.create_task(post())
        await asyncio.to_thread(provider.wait_until, lambda stats: stats.queued == 1)
        provider.change(max_in_flight=None)
        assert (await waiting).status_code == 200
        stuck.cancel()


def test_limits_are_told_and_kept(serve, ask):
    """Limits per minute are told in headers; beyond them comes 429 with the wait in every form."""
    provider = serve(requests_per_minute=2, tokens_per_minute=1000, reply="one two")
    first = ask(provider)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-tokens"] == "995"
    ask(provider)
    refused = ask(provider)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(refused.headers["retry-after"]) <= 30
    assert 0 < int(refused.headers["retry-after-ms"]) <= 30_000
    provider.reset()
    assert [ask(provider).status_code for _ in range(3)] == [200, 200, 429]
    provider.change(requests_per_minute=None, tokens_per_minute=7)
    assert [ask(provider).status_code for _ in range(2)] == [200, 429]


def test_counts_what_it_did(serve, ask, events, client):
    """Requests are counted by endpoint and status, tokens and money as they were sent."""
    provider = serve(
        reply="one two",
        input_price=1e6,
        output_price=1e7,
        cached_price=5e5,
        cached_tokens=1,
        faults=[Fault("auth", on=[3])],
    )
    ask(provider)
    events(provider)
    assert ask(provider).status_code == 401
    ask(provider, "embeddings")
    client.get(provider.url + "/models")
    stats = provider.stats
    assert stats.requests == 5
    assert stats.by_endpoint == {"chat": 3, "embeddings": 1, "models": 1}
    assert stats.by_status == {200: 4, 401: 1}
    assert (stats.streamed, stats.in_flight, stats.peak_in_flight, stats.clients_left) == (1, 0, 1, 0)
    assert (stats.prompt_tokens, stats.completion_tokens) == (3 + 3 + 2, 4)
    assert stats.cost == pytest.approx(3 * (0.5) + 5 * 1 + 4 * 10)
    provider.reset()
    assert (provider.stats.requests, provider.stats.cost, provider.requests) == (0, 0, [])


def test_keeps_the_last_requests(serve, client):
    """The last requests can be looked at, as many as wanted, and do not show what they carry in their repr."""
    provider = serve(keep_requests=2)
    for user in ("u1", "u2", "u3"):
        body = {"model": "m", "messages": HELLO, "user": user}
        client.post(provider.url + "/chat/completions", json=body, headers={"Authorization": "Bearer secret"})
    assert [request.user for request in provider.requests] == ["u2", "u3"]
    last = provider.requests[-1]
    assert (last.endpoint, last.model, last.stream) == ("chat", "m", False)
    assert last.headers["authorization"] == "Bearer secret"
    assert last.body["messages"] == HELLO
    assert "secret" not in repr(last)
    assert "hello" not in repr(last)


def test_every_response_has_an_id_of_its_own(serve, ask):
    """Request ids are told in a header, for errors too, and never repeat, not even between providers."""
    first, second = serve(), serve(faults=[Fault("server_error")])
    ids = [ask(provider).headers["x-request-id"] for provider in (first, first, second)]
    assert len(set(ids)) == 3


def test_waiting_for_what_never_holds_ends(serve):
    """Waiting for a state of affairs raises when it does not come about."""
    with pytest.raises(TimeoutError, match="requests=0"):
        serve().wait_until(lambda stats: stats.requests == 1, timeout_seconds=0.01)


async def test_works_as_an_async_context_manager():
    """It serves inside async with, in the same event loop's company, and not after it."""
    async with FakeProvider(reply="hi") as provider, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(provider.url + "/chat/completions", json={"model": "m", "messages": HELLO})
        assert answer.json()["choices"][0]["message"]["content"] == "hi"
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(provider.url + "/models")


def test_closes_while_clients_hang():
    """Closing cuts the connections of those who wait, counts nobody as gone, and leaves no thread."""
    before = set(threading.enumerate())
    provider = FakeProvider(faults=[Fault("timeout")]).start()
    failures: list[Exception] = []

    def wait_for_an_answer() -> None:
        try:
            httpx.post(provider.url + "/chat/completions", json={"model": "m", "messages": HELLO}, timeout=10)
        except httpx.TransportError as error:
            failures.append(error)

    clients = [threading.Thread(target=wait_for_an_answer) for _ in range(3)]
    for client in clients:
        client.start()
    provider.wait_until(lambda stats: stats.in_flight == 3)
    provider.close()
    for client in clients:
        client.join()
    assert len(failures) == 3
    assert not any(isinstance(failure, httpx.TimeoutException) for failure in failures)
    assert (provider.stats.clients_left, provider.stats.in_flight) == (0, 0)
    assert "fake-provider" not in [thread.name for thread in set(threading.enumerate()) - before]


def test_closes_while_a_client_does_not_read(serve):
    """A client that asks for much and reads nothing does not keep it from closing."""
    provider = serve(reply="word " * 100_000)
    body = json.dumps({"model": "m", "messages": HELLO, "stream": True}).encode()
    with socket.create_connection(_address(provider)) as raw:
        raw.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        )
        provider.wait_until(lambda stats: stats.completion_tokens > 1000)
        provider.close()
        assert provider.stats.completion_tokens < 100_000


def test_starts_again_where_it_was():
    """Closed, it refuses connections; started again, it answers at the same address and counts on."""
    provider = FakeProvider()
    with pytest.raises(RuntimeError, match="before it is started"):
        _ = provider.url
    with httpx.Client(trust_env=False) as client:
        with provider:
            url = provider.url
            client.get(url + "/models")
            with pytest.raises(RuntimeError, match="running already"):
                provider.start()
        with pytest.raises(httpx.ConnectError):
            client.get(url + "/models")
        with provider:
            assert provider.url == url
            client.get(url + "/models")
    provider.close()
    assert provider.stats.requests == 2


def test_a_port_that_is_taken(serve):
    """A port that somebody else listens on is an OSError of the one who starts."""
    with pytest.raises(OSError, match="in use"):
        FakeProvider(port=_address(serve())[1]).start()


def test_serves_from_a_shell():
    """The command prints its URL, behaves as its options say, and ends in peace when it is interrupted."""
    options = ["--reply", "from a shell", "--fault", "rate_limit,on=2,retry_after=3", "--latency", "uniform:0,0.001"]
    command = [sys.executable, "-m", "llmkit_plugins.testing.fake_provider", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        post = partial(httpx.post, url + "/chat/completions", json={"model": "m", "messages": HELLO}, trust_env=False)
        assert post().json()["choices"][0]["message"]["content"] == "from a shell"
        assert post().headers["retry-after"] == "3"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"first_token_seconds": -1}, "first_token_seconds"),
        ({"per_token_seconds": "fast"}, "per_token_seconds"),
        ({"reply": []}, "reply"),
        ({"models": "one"}, "models"),
        ({"faults": ["rate_limit"]}, "faults"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"requests_per_minute": 1.5}, "requests_per_minute"),
        ({"tokens_per_minute": True}, "tokens_per_minute"),
        ({"input_price": float("nan")}, "input_price"),
        ({"output_price": -1}, "output_price"),
        ({"cached_price": -1}, "cached_price"),
        ({"cached_tokens": -1}, "cached_tokens"),
        ({"reasoning_tokens": 0.5}, "reasoning_tokens"),
        ({"seed": -1}, "seed"),
        ({"port": 70000}, "port"),
        ({"keep_requests": -1}, "keep_requests"),
    ],
)
def test_settings_that_cannot_be_used(settings, key):
    """A setting that cannot be used is an error that names it and says what would be right."""
    with pytest.raises(ConfigError) as caught:
        FakeProvider(**settings)
    assert caught.value.key == key
    assert caught.value.right


def test_unknown_settings_name_the_nearest():
    """A setting that does not exist is an error that names the one that was meant."""
    with pytest.raises(ConfigError, match="there is no such setting") as caught:
        FakeProvider(first_token_second=1)
    assert (caught.value.key, caught.value.right) == ("first_token_second", "first_token_seconds")


def test_keyword_arguments_are_the_settings():
    """What type checkers are told of the keyword arguments is what the settings object has."""
    assert get_type_hints(BehaviourSettings) == get_type_hints(Behaviour)


def test_settings_change_a_behaviour():
    """Keyword arguments change the behaviour that is given; assigning another replaces it."""
    provider = FakeProvider(Behaviour(reply="a", seed=1), seed=2)
    assert provider.behaviour == Behaviour(reply="a", seed=2)
    provider.behaviour = Behaviour(first_token_seconds=Constant(1))
    assert provider.behaviour.first_token_seconds == Constant(1)


def test_slows_down_and_heals():
    """Slowing down changes only the latency that is named; healing restores what it was made with, without faults."""
    provider = FakeProvider(reply="a", first_token_seconds=Uniform(0, 1), faults=[Fault("empty")])
    provider.change(reply="b")
    provider.slow_down(per_token_seconds=LogNormal(1, 0.5))
    assert provider.behaviour.first_token_seconds == Uniform(0, 1)
    provider.slow_down(first_token_seconds=2)
    assert (provider.behaviour.first_token_seconds, provider.behaviour.per_token_seconds) == (2, LogNormal(1, 0.5))
    provider.heal()
    assert provider.behaviour == Behaviour(reply="b", first_token_seconds=Uniform(0, 1), faults=())


def _address(provider: FakeProvider) -> tuple[str, int]:
    url = httpx.URL(provider.url)
    return url.host, url.port
