"""Two providers, the real ``ChatOpenAI`` in front of them, a kit that records, and every way LangChain has to call a
model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from llmkit_langchain import ChatLLMKit

from llmkit_plugins import LLMKit
from llmkit_plugins.testing import FakeProvider, Recorder


@pytest.fixture
def provider() -> Iterator[Callable[..., FakeProvider]]:
    """Starts providers that are closed when the test ends."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(FakeProvider(**settings))


@pytest.fixture
def first(provider) -> FakeProvider:
    """The provider that is asked first."""
    return provider(reply="one two three")


@pytest.fixture
def second(provider) -> FakeProvider:
    """The provider that is asked where the first one fails."""
    return provider(reply="four five")


@pytest.fixture
async def chat_openai() -> AsyncIterator[Callable[..., ChatOpenAI]]:
    """Makes models whose connections are closed when the test ends."""
    clients: list[Any] = []

    def make(provider: FakeProvider, model: str, cls: type[ChatOpenAI] = ChatOpenAI, **settings: Any) -> ChatOpenAI:
        # certificates take longer to load than a test
        sync, asynchronous = openai.DefaultHttpxClient(verify=False), openai.DefaultAsyncHttpxClient(verify=False)
        clients.append((sync, asynchronous))
        given = {"api_key": "k", "max_retries": 0, "stream_usage": True, **settings}
        return cls(model=model, base_url=provider.url, http_client=sync, http_async_client=asynchronous, **given)

    yield make
    for sync, asynchronous in clients:
        sync.close()
        await asynchronous.aclose()


@pytest.fixture
def recorder() -> Recorder:
    """Hears everything, and in the end must have heard the end of everything."""
    return Recorder()


@pytest.fixture
def kit(recorder) -> Iterator[LLMKit]:
    """A kit that records and hides no bug."""
    with LLMKit([recorder], on_plugin_error="raise") as kit:
        yield kit
    assert not recorder.open


@pytest.fixture
def model(kit, first, second, chat_openai) -> ChatLLMKit:
    """A model over the two providers."""
    return ChatLLMKit(models={"first": chat_openai(first, "m-1"), "second": chat_openai(second, "m-2")}, kit=kit)


@pytest.fixture
def chain_of() -> Callable[[Any], Any]:
    """Puts a model into a chain."""
    prompt = ChatPromptTemplate.from_messages([("user", "{topic}")])
    return lambda model: prompt | model | StrOutputParser()


@pytest.fixture
def ask() -> Callable[..., Any]:
    """``await ask(mode, runnable, config)``: what *runnable* answers, as a list of texts; the sync modes run in a
    thread."""

    async def ask(mode: str, runnable: Any, config: Any = None, said: Any = "hi") -> list[str]:
        if mode in _ASYNC:
            return [_text(answer) for answer in await _ASYNC[mode](runnable, said, config)]
        return [_text(answer) for answer in await asyncio.to_thread(_SYNC[mode], runnable, said, config)]

    return ask


def _text(answer: Any) -> str:
    """Of a chain's text, a model's message, the last one of a graph's state, or a graph's streamed piece of one."""
    if isinstance(answer, dict):
        answer = answer["messages"][-1]
    if isinstance(answer, tuple):
        answer = answer[0]
    return answer if isinstance(answer, str) else str(answer.text)


def _joined(chunks: list[Any]) -> list[str]:
    return ["".join(map(_text, chunks))]


def _twice(said: Any) -> list[Any]:
    """What a batch is asked: *said* twice, or the two things that it is."""
    return said if isinstance(said, list) else [said, said]


async def _ainvoke(runnable, said, config):
    return [await runnable.ainvoke(said, config)]


async def _astream(runnable, said, config):
    return _joined([chunk async for chunk in runnable.astream(said, config)])


async def _abatch(runnable, said, config):
    # else it does not wait for the other
    answers = await runnable.abatch(_twice(said), config, return_exceptions=True)
    for error in answers:
        if isinstance(error, BaseException):
            raise error
    return answers


async def _astream_events(runnable, said, config):
    events = [event async for event in runnable.astream_events(said, config, version="v2")]
    return _joined([event["data"]["chunk"] for event in events if event["event"] == "on_chat_model_stream"])


async def _astream_events_v3(runnable, said, config):
    async with await runnable.astream_events(said, config, version="v3") as stream:
        return [await (stream.output() if callable(stream.output) else stream.output)]


_ASYNC = {
    "ainvoke": _ainvoke,
    "astream": _astream,
    "abatch": _abatch,
    "astream_events": _astream_events,
    "astream_events v3": _astream_events_v3,
}
_SYNC = {
    "invoke": lambda runnable, said, config: [runnable.invoke(said, config)],
    "stream": lambda runnable, said, config: _joined(list(runnable.stream(said, config))),
    "batch": lambda runnable, said, config: runnable.batch(_twice(said), config),
    "stream_events v3": lambda runnable, said, config: [runnable.stream_events(said, config, version="v3").output],
}


@pytest.fixture
def listen() -> Callable[..., Any]:
    """``await listen(mode, runnable, config)``: begin to read what *runnable* streams, and leave after the first
    text."""

    async def listen(mode: str, runnable: Any, config: Any = None, said: Any = "hi") -> None:
        if mode == "stream":
            await asyncio.to_thread(_leave, runnable, said, config)
        elif mode == "stream_events v3":
            await asyncio.to_thread(_leave_v3, runnable, said, config)
        elif mode == "astream_events v3":
            async with await runnable.astream_events(said, config, version="v3") as stream:
                spoken = stream if hasattr(stream, "text") else await anext(aiter(stream.messages))
                await anext(aiter(spoken.text))
        else:
            await _aleave(mode, runnable, said, config)

    return listen


def _leave(runnable, said, config):
    chunks = runnable.stream(said, config)
    next(chunk for chunk in chunks if _text(chunk))
    chunks.close()


def _leave_v3(runnable, said, config):
    stream = runnable.stream_events(said, config, version="v3")
    if hasattr(stream, "text"):
        next(iter(stream.text))
    else:
        next(iter(next(iter(stream.messages)).text))
        stream.abort()


async def _aleave(mode, runnable, said, config):
    if mode == "astream":
        chunks = runnable.astream(said, config)
        says = _text
    else:
        chunks = runnable.astream_events(said, config, version="v2")
        says = lambda event: event["event"] == "on_chat_model_stream" and _text(event["data"]["chunk"])  # noqa: E731
    async for chunk in chunks:
        if says(chunk):
            break
    await chunks.aclose()


@pytest.fixture
def cancel() -> Callable[..., Any]:
    """``await cancel(provider, coroutine, requests)``: cancel *coroutine* once *provider* has that many of its
    requests."""

    async def cancel(provider: FakeProvider, coroutine: Any, requests: int = 1) -> None:
        task = asyncio.ensure_future(coroutine)
        await asyncio.to_thread(provider.wait_until, lambda stats: stats.requests == requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    return cancel


@pytest.fixture
def held(first, second) -> Iterator[threading.Event]:
    """Both providers keep their answers back until this is set."""
    gate = threading.Event()

    def say(words: str) -> Callable[[Any], str]:
        def reply(body: Any) -> str:
            gate.wait()
            return words

        return reply

    first.change(reply=say("one two three"))
    second.change(reply=say("four five"))
    yield gate
    gate.set()


@pytest.fixture
def seats(kit) -> Callable[[], int]:
    """How many callers sit at the upstreams under way."""
    return lambda: sum(flight.seats for flight in list(kit.flights.under_way))


@pytest.fixture
def seated(seats) -> Callable[[int], Any]:
    """``await seated(n)``: until that many do."""

    async def seated(callers: int) -> None:
        async with asyncio.timeout(30):
            while seats() != callers:  # noqa: ASYNC110 - nothing tells of a seat that is taken
                await asyncio.sleep(0.001)

    return seated


@pytest.fixture
def together(seated, held) -> Callable[..., Any]:
    """``await together(coroutines)``: what they return, answered once all of them sit at an upstream."""

    async def together(coroutines: Any) -> list[Any]:
        tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
        await seated(len(tasks))
        held.set()
        return await asyncio.gather(*tasks)

    return together
