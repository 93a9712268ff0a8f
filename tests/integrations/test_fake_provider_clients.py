"""The fake provider through OpenAI's own client: what it answers can be read, and what fails fails as with OpenAI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pydantic
import pytest

from llmkit_plugins.provider_errors import kind_of, retry_after_of
from llmkit_plugins.testing.fake_provider import FakeProvider, Fault

HELLO: list[Any] = [{"role": "user", "content": "say hello please"}]
CHAT: dict[str, Any] = {"model": "m", "messages": HELLO}


class Weather(pydantic.BaseModel):
    city: str
    days: list[int]
    unit: str | None = None


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": Weather.model_json_schema()}}


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeProvider]]:
    """Starts providers that are closed when the test ends."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(FakeProvider(**settings))


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Makes clients that are closed when the test ends."""
    with ExitStack() as stack:

        def connect(provider: FakeProvider, **options: Any) -> Any:
            return stack.enter_context(
                openai.OpenAI(base_url=provider.url, api_key="k", **{"max_retries": 0, **options})
            )

        yield connect


def _async_client(provider: FakeProvider) -> Any:
    return openai.AsyncOpenAI(base_url=provider.url, api_key="k", max_retries=0)


def test_whole_answer(serve, connect):
    """A whole answer has the reply, the usage with its details, and a request id."""
    answer = connect(serve(reply="Hello there.", cached_tokens=2)).chat.completions.create(**CHAT)
    assert answer.choices[0].message.content == "Hello there."
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 2)
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert answer.system_fingerprint
    assert answer._request_id.startswith("req_")


def test_streamed_answer(serve, connect):
    """A streamed answer has the reply in pieces and the usage in a last chunk without choices."""
    provider = serve(reply="Hello there.")
    with connect(provider).chat.completions.create(
        **CHAT, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello there."
    assert (chunks[0].choices[0].delta.role, chunks[0].choices[0].delta.content) == ("assistant", "")
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 5)
    assert (provider.stats.completion_tokens, provider.stats.clients_left, provider.stats.in_flight) == (2, 0, 0)


async def test_whole_and_streamed_answers_under_asyncio(serve):
    """The same for the client of asyncio, many at a time."""
    provider = serve(reply="Hello there.")

    async def streamed() -> str:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async with _async_client(provider) as client:
        answers = await asyncio.gather(*(client.chat.completions.create(**CHAT) for _ in range(10)))
        texts = await asyncio.gather(*(streamed() for _ in range(10)))
    assert {answer.choices[0].message.content for answer in answers} == {*texts} == {"Hello there."}
    assert (provider.stats.requests, provider.stats.streamed) == (20, 10)


def test_a_conversation_with_a_tool(serve, connect):
    """The model calls the tool with arguments that fit, gets its answer, and answers in text."""
    client = connect(serve(reply="Sunny."))
    message = client.chat.completions.create(**CHAT, tools=[TOOL]).choices[0].message
    call = message.tool_calls[0]
    assert Weather.model_validate_json(call.function.arguments).days == [1]
    turns = [*HELLO, message, {"role": "tool", "tool_call_id": call.id, "content": "25 degrees"}]
    answer = client.chat.completions.create(model="m", messages=turns, tools=[TOOL])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Sunny.", "stop")


def test_a_streamed_tool_call(serve, connect):
    """The client puts a streamed tool call together."""
    with connect(serve()).chat.completions.stream(**CHAT, tools=[TOOL]) as stream:
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    assert Weather.model_validate_json(call.function.arguments)


def test_structured_output(serve, connect):
    """A Pydantic model as response format comes back as an object of it."""
    parsed = connect(serve()).chat.completions.parse(**CHAT, response_format=Weather).choices[0].message.parsed
    assert isinstance(parsed, Weather)


def test_the_other_endpoints(serve, connect):
    """Completions, embeddings (which the client asks for in base64) and models can be read."""
    client = connect(serve(reply="and then", models=["m"]))
    assert client.completions.create(model="m", prompt="once").choices[0].text == "and then"
    assert (
        "".join(c.choices[0].text for c in client.completions.create(model="m", prompt="once", stream=True))
        == "and then"
    )
    first, second = (item.embedding for item in client.embeddings.create(model="m", input=["a", "b"]).data)
    assert len(first) == len(second)
    assert first != second
    assert [model.id for model in client.models.list()] == ["m"]


@pytest.mark.parametrize(
    ("fault", "error", "kind"),
    [
        (Fault("rate_limit", retry_after=2), "RateLimitError", "rate_limit"),
        (Fault("server_error"), "InternalServerError", "server"),
        (Fault("server_error", status=502), "InternalServerError", "server"),
        (Fault("overloaded"), "InternalServerError", "overloaded"),
        (Fault("overloaded", status=529), "InternalServerError", "overloaded"),
        (Fault("bad_request"), "BadRequestError", "bad_request"),
        (Fault("auth"), "AuthenticationError", "auth"),
        (Fault("not_found"), "NotFoundError", "not_found"),
        (Fault("context_length"), "BadRequestError", "context_length"),
        (Fault("content_filter"), "BadRequestError", "content_filter"),
        (Fault("timeout"), "APITimeoutError", "timeout"),
        (Fault("disconnect"), "APIConnectionError", "connection"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_faults_are_the_clients_errors(serve, connect, fault, error, kind, stream):
    """Each fault is the error that the client raises for it with OpenAI, and of the kind that it is named for."""
    client = connect(serve(faults=[fault]), timeout=0.1 if kind == "timeout" else 10)
    with pytest.raises(getattr(openai, error)) as caught:
        client.chat.completions.create(**CHAT, stream=stream)
    assert kind_of(caught.value) == kind
    assert retry_after_of(caught.value) == fault.retry_after


def test_faults_within_a_stream(serve, connect):
    """What goes wrong within a stream is raised while it is read, after what came before."""
    expected = {
        "server_error": openai.APIError,
        "malformed": json.JSONDecodeError,
        "disconnect": Exception,
        "stall": Exception,
    }
    for kind, error in expected.items():
        provider = serve(reply="one two three", faults=[Fault(kind, after_chunks=2)])
        stream = connect(provider, timeout=1.0).chat.completions.create(**CHAT, stream=True)
        assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "one"]
        with pytest.raises(error):
            next(stream)


def test_an_empty_stream(serve, connect):
    """A stream without a chunk ends without an error."""
    assert list(connect(serve(faults=[Fault("empty")])).chat.completions.create(**CHAT, stream=True)) == []


def test_the_client_retries_when_it_is_told(serve, connect):
    """The client's own retries see the wait, and succeed once the fault is over."""
    provider = serve(faults=[Fault("rate_limit", on=[1], retry_after=0.001)])
    assert connect(provider, max_retries=1).chat.completions.create(**CHAT).choices
    assert provider.stats.by_status == {429: 1, 200: 1}


async def test_a_stream_that_is_left_is_counted(serve):
    """A client that leaves a stream half-way is counted as gone."""
    provider = serve(reply="one two", per_token_seconds=3600.0)
    async with _async_client(provider) as client:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        await anext(stream)
        await stream.close()
        stats = await asyncio.to_thread(provider.wait_until, lambda stats: stats.clients_left == 1)
    assert stats.in_flight == 0


def test_users_can_be_told_apart(serve, connect):
    """Who asked is found in the requests that the provider keeps."""
    provider = serve()
    for user in ("u1", "u2"):
        connect(provider).chat.completions.create(**CHAT, user=user)
    assert [request.user for request in provider.requests] == ["u1", "u2"]
