"""The multiplexer over real HTTP: the ``openai`` client, server-sent events, and a provider that counts requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from random import Random
from typing import Any

import openai
import pytest

from llmkit_plugins import Call, LLMKit, Target
from llmkit_plugins.plugins.multiplexer import MultiplexerPlugin, StreamingMultiplexer
from llmkit_plugins.testing import FakeProvider
from llmkit_plugins.testing.fake_provider import Fault

MESSAGES = [{"role": "user", "content": "hi"}]
WORDS = 100
SHORT = "one two three four five six"
SHORT_CHUNKS = 1 + 6 + 1 + 1
"""The role, each word, the finish reason, the usage."""


class Gaps:
    """From token to token *seconds*, but before the token at *place* much longer."""

    def __init__(self, place: int, seconds: float = 0.0, longer: float = 0.3) -> None:
        self.place, self.seconds, self.longer, self.token = place, seconds, longer, 0

    def sample(self, random: Random) -> float:
        self.token += 1
        return self.longer if self.token == self.place else self.seconds


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(reply=SHORT, per_token_seconds=0.01) as provider:
        yield provider


@pytest.fixture
def kit() -> Iterator[LLMKit]:
    with LLMKit([MultiplexerPlugin()], [Target("a", "a", "model")]) as kit:
        yield kit


@pytest.fixture
async def backend(provider: FakeProvider, openai_backend: Any) -> AsyncIterator[Any]:
    backend = openai_backend(a=provider.url)
    yield backend
    await backend.aclose()


@pytest.fixture
def ask(kit: LLMKit, backend: Any) -> Any:
    """Opens a stream for a call like all the others."""

    def ask(**call: Any) -> Any:
        return kit.astream(Call(MESSAGES, **call), backend)

    return ask


async def read(stream: Any) -> list[str]:
    """All that came, to the byte."""
    return [chunk.model_dump_json() async for chunk in stream]


async def test_a_hundred_streams_are_one_request(ask: Any, provider: FakeProvider) -> None:
    """And their answers are the same to the byte."""
    answers = await asyncio.gather(*[read(ask(user=f"user-{number}")) for number in range(100)])
    assert provider.stats.requests == 1
    assert len(answers[0]) == SHORT_CHUNKS
    assert answers == [answers[0]] * 100


async def test_a_hundred_whole_answers_are_one_request(kit: LLMKit, backend: Any, provider: FakeProvider) -> None:
    """The same for answers that are not streamed."""
    responses = await asyncio.gather(*[kit.acall(Call(MESSAGES), backend) for _ in range(100)])
    assert provider.stats.requests == 1
    assert [response.raw.choices[0].message.content for response in responses] == [SHORT] * 100
    assert sum(response.shared is None for response in responses) == 1


@pytest.mark.parametrize("percent", [10, 50, 99])
async def test_late_joiners(ask: Any, provider: FakeProvider, percent: int) -> None:
    """Whenever they join, they get all of it."""
    words = " ".join(f"word-{number}" for number in range(WORDS))
    provider.change(reply=words, per_token_seconds=Gaps(percent))
    leader = ask()
    chunks = [(await anext(leader)).model_dump_json() for _ in range(1 + percent)]
    late, chunks_after = await asyncio.gather(read(ask()), read(leader))
    assert late == chunks + chunks_after
    assert len(late) == 1 + WORDS + 2
    assert provider.stats.requests == 1


@pytest.mark.parametrize("boundary", range(SHORT_CHUNKS))
async def test_the_leader_leaves_at_every_chunk(ask: Any, provider: FakeProvider, boundary: int) -> None:
    """Whenever it is cancelled, the others get all of it, from the one request there was."""
    reached = asyncio.Event()
    chunks = []

    async def lead() -> None:
        async for chunk in ask():
            chunks.append(chunk.model_dump_json())
            if len(chunks) == boundary:
                reached.set()

    leader = asyncio.create_task(lead())
    await asyncio.sleep(0)
    followers = [asyncio.create_task(read(ask())) for _ in range(3)]
    if boundary:
        await reached.wait()
    leader.cancel()
    answers = await asyncio.gather(*followers)
    assert leader.cancelled() or boundary > 6  # what follows the last word comes at once
    assert (len(answers[0]), answers) == (SHORT_CHUNKS, [answers[0]] * 3)
    assert chunks == answers[0][: len(chunks)]
    assert (provider.stats.requests, provider.stats.clients_left) == (1, 0)


async def test_all_leave(ask: Any, provider: FakeProvider, kit: LLMKit) -> None:
    """When the last one has left, the provider sees the connection closed, long before the answer would end."""
    provider.change(per_token_seconds=Gaps(2, longer=600.0))
    streams = [ask() for _ in range(5)]
    for stream in streams:
        await anext(stream)
    for stream in streams:
        assert provider.stats.clients_left == 0
        await stream.aclose()
    stats = await asyncio.to_thread(provider.wait_until, lambda stats: stats.clients_left == 1)
    assert (stats.requests, stats.in_flight) == (1, 0)
    assert not kit.flights


async def test_an_error_before_the_stream(ask: Any, provider: FakeProvider) -> None:
    """Everybody gets the one error."""
    provider.fail_with(Fault("server_error"))
    errors = await asyncio.gather(*[read(ask()) for _ in range(10)], return_exceptions=True)
    assert isinstance(errors[0], openai.InternalServerError)
    assert errors == [errors[0]] * 10
    assert provider.stats.requests == 1


async def test_failover_before_the_stream(provider: FakeProvider, openai_backend: Any) -> None:
    """The provider that fails is left once, for all."""
    provider.fail_with(Fault("overloaded"))
    with FakeProvider(reply=SHORT) as other:
        backend = openai_backend(a=provider.url, b=other.url)
        kit = LLMKit([MultiplexerPlugin()], [Target("a", "a", "model"), Target("b", "b", "model")])
        answers = await asyncio.gather(*[read(kit.astream(Call(MESSAGES), backend)) for _ in range(10)])
        assert (len(answers[0]), answers) == (SHORT_CHUNKS, [answers[0]] * 10)
        assert (provider.stats.requests, other.stats.requests) == (1, 1)
        await backend.aclose()


async def test_an_error_in_the_middle(ask: Any, provider: FakeProvider) -> None:
    """Everybody gets what came before it, and then the same error."""
    provider.fail_with(Fault("disconnect", after_chunks=4))

    async def attempt() -> tuple[list[str], BaseException]:
        chunks = []
        with pytest.raises(Exception, match=r"peer closed|Connection error") as error:
            async for chunk in ask():
                chunks.append(chunk.model_dump_json())
        return chunks, error.value

    ends = await asyncio.gather(*[attempt() for _ in range(10)])
    assert len(ends[0][0]) == 4
    assert ends == [ends[0]] * 10
    assert provider.stats.requests == 1


async def test_a_slow_reader_beside_a_fast_one(ask: Any, provider: FakeProvider) -> None:
    """The fast one is through before the slow one reads his second chunk, and that one still gets everything."""
    slow = ask()
    first = (await anext(slow)).model_dump_json()
    fast = await read(ask())
    assert [first, *await read(slow)] == fast
    assert len(fast) == SHORT_CHUNKS
    assert provider.stats.requests == 1


@pytest.mark.parametrize("other", [{"tenant": "t"}, {"metadata": {"credential": "c"}}, {"params": {"temperature": 0}}])
async def test_other_calls_are_other_requests(ask: Any, provider: FakeProvider, other: dict[str, Any]) -> None:
    """Another tenant, credential or parameter is another request."""
    await asyncio.gather(read(ask()), read(ask(**other)))
    assert provider.stats.requests == 2


def _content(chunks: Sequence[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_threads(kit: LLMKit, provider: FakeProvider, openai_backend: Any, in_threads: Any) -> None:
    """Eight threads are one request, streamed or whole."""
    provider.slow_down(first_token_seconds=0.5)
    backend = openai_backend(a=provider.url)
    streams = in_threads(*[lambda: _content(list(kit.stream(Call(MESSAGES), backend)))] * 8)
    assert (streams, provider.stats.requests) == ([SHORT] * 8, 1)
    wholes = in_threads(*[lambda: kit.call(Call(MESSAGES), backend).raw.choices[0].message.content] * 8)
    assert (wholes, provider.stats.requests) == ([SHORT] * 8, 2)


def test_threads_that_leave(kit: LLMKit, provider: FakeProvider, openai_backend: Any) -> None:
    """The last one to leave closes the connection."""
    provider.change(per_token_seconds=Gaps(2, longer=600.0))
    backend = openai_backend(a=provider.url)
    streams = [kit.stream(Call(MESSAGES), backend) for _ in range(3)]
    for stream in streams:
        next(stream)
    for stream in streams:
        assert provider.stats.clients_left == 0
        stream.close()
    stats = provider.wait_until(lambda stats: stats.clients_left == 1)
    assert (stats.requests, len(kit.flights)) == (1, 0)


async def test_late_duplicates(provider: FakeProvider, backend: Any) -> None:
    """With ``retain_seconds`` they get the finished answer, chunk by chunk."""
    kit = LLMKit([MultiplexerPlugin(retain_seconds=60)], [Target("a", "a", "model")])
    calls = [Call(MESSAGES), Call(MESSAGES)]
    answers = [await read(kit.astream(call, backend)) for call in calls]
    assert (len(answers[0]), answers[1]) == (SHORT_CHUNKS, answers[0])
    assert (calls[1].response.shared, calls[1].response.cost) == (calls[0].id, 0.0)
    assert provider.stats.requests == 1


async def test_alone_with_the_client(provider: FakeProvider) -> None:
    """Without a kit: what the client's ``create`` returns is read for all, and closed when all have left."""
    multiplexer = StreamingMultiplexer()
    async with openai.AsyncOpenAI(base_url=provider.url, api_key="any", max_retries=0) as client:

        def subscribe() -> AsyncIterator[Any]:
            call = Call(MESSAGES, "model")
            return multiplexer.subscribe(
                call, lambda: client.chat.completions.create(model="model", messages=MESSAGES, stream=True)
            )

        answers = await asyncio.gather(*[read(subscribe()) for _ in range(10)])
        assert (answers, provider.stats.requests) == ([answers[0]] * 10, 1)
        provider.change(per_token_seconds=Gaps(2, longer=600.0))
        streams: list[Any] = [subscribe() for _ in range(2)]
        for stream in streams:
            await anext(stream)
        for stream in streams:
            await stream.aclose()
        await asyncio.to_thread(provider.wait_until, lambda stats: stats.clients_left == 1)
    assert multiplexer.stats().active_requests == 0
