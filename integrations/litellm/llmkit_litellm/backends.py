"""How a kit sends through LiteLLM: a whole call through a Router, or one attempt through the SDK."""
# ruff: noqa: ARG002 - all backends' methods take what some backends need

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from llmkit_litellm import compat
from llmkit_litellm.journey import Journey, Reader, sending, travelling
from llmkit_litellm.reading import Reading, learn, says
from llmkit_litellm.streams import Opening
from llmkit_litellm.targets import Book
from llmkit_litellm.wire import with_headers
from llmkit_plugins.call import Attempt, Call, Target
from llmkit_plugins.kit import LLMKit

Send = Callable[[], Any]
ASend = Callable[[], Awaitable[Any]]

_END: Any = object()


class LiteLLMBackend(Reader):
    """What both backends share. *send* is LiteLLM's own function with the caller's arguments, sync or async."""

    def __init__(self, send: Send | ASend) -> None:
        self._send: Callable[..., Any] = send

    def _prepared(self, call: Call, attempt: Attempt | None = None) -> Callable[[], Any]:
        """The function to call: LiteLLM uses the same id for *call*, and sends the headers plugins add to *attempt*."""
        return with_headers(partial(self._send, litellm_call_id=call.id), attempt)

    def copy(self, chunk: Any) -> Any:
        return compat.copied(chunk)


class SDKBackend(LiteLLMBackend):
    """Sends one attempt to *target* through one of LiteLLM's SDK functions, sync or async."""

    def __init__(self, send: Send | ASend, target: Target) -> None:
        super().__init__(send)
        self.targets = (target,)

    def send(self, call: Call, attempt: Attempt | None) -> Any:
        with sending():
            answer = self._prepared(call, attempt)()
        return _learnt(attempt, answer)

    async def asend(self, call: Call, attempt: Attempt | None) -> Any:
        with sending():
            answer = await self._prepared(call, attempt)()
        return _learnt(attempt, answer)

    def stream(self, call: Call, attempt: Attempt | None) -> Iterator[Any]:
        with sending():
            stream = self._prepared(call, attempt)()
        if not compat.is_stream(stream):
            yield Opening(_learnt(attempt, stream))
            return
        with compat.closing(stream):
            yield Opening(stream)
            reading = _reading(attempt, stream)
            while (chunk := _next_sent(stream)) is not _END:
                reading.read(chunk)
                yield chunk
            reading.end()

    async def astream(self, call: Call, attempt: Attempt | None) -> AsyncIterator[Any]:
        with sending():
            stream = await self._prepared(call, attempt)()
        if not compat.is_stream(stream):
            yield Opening(_learnt(attempt, stream))
            return
        async with compat.aclosing(stream):
            yield Opening(stream)
            reading = _reading(attempt, stream)
            while (chunk := await _anext_sent(stream)) is not _END:
                reading.read(chunk)
                yield chunk
            reading.end()

    def says(self, chunk: Any) -> bool:
        if isinstance(chunk, Opening):  # a caller who asked for a stream and got a whole answer has it all
            return not compat.is_stream(chunk.stream)
        return says(chunk)


def _learnt(attempt: Attempt | None, answer: Any) -> Any:
    if attempt is not None:
        learn(attempt, answer)
    return answer


def _reading(attempt: Attempt | None, stream: Any) -> Reading:
    if attempt is None:
        raise TypeError("only a backend that delegates is sent a call without an attempt")
    return Reading(attempt, stream)


def _next_sent(stream: Any) -> Any:
    with sending():
        return next(stream, _END)


async def _anext_sent(stream: Any) -> Any:
    with sending():
        return await anext(stream, _END)


class RouterBackend(LiteLLMBackend):
    """Sends the whole call to a Router, which selects, retries and falls back; attempts are reported along the way."""

    delegates = True

    def __init__(self, send: Send | ASend, kit: LLMKit, book: Book) -> None:
        super().__init__(send)
        self._kit, self._book = kit, book

    def send(self, call: Call, attempt: Attempt | None) -> Any:
        with Journey(self._kit, call, self._book) as journey, travelling(journey):
            return compat.apart(self._prepared(call))

    async def asend(self, call: Call, attempt: Attempt | None) -> Any:
        async with Journey(self._kit, call, self._book) as journey:
            with travelling(journey):
                return await self._prepared(call)()

    def stream(self, call: Call, attempt: Attempt | None) -> Iterator[Any]:
        with Journey(self._kit, call, self._book) as journey:
            inside = travelling(journey)
            with inside:
                stream = compat.apart(self._prepared(call))
            if not compat.is_stream(stream):
                yield Opening(stream)
                return
            with compat.closing(stream):
                with inside:
                    chunk = compat.apart(next, stream, _END)  # only a generator that has started can be closed
                yield Opening(stream)
                while chunk is not _END:
                    yield chunk
                    with inside:  # LiteLLM may fall back while fetching the next chunk
                        chunk = compat.apart(next, stream, _END)

    async def astream(self, call: Call, attempt: Attempt | None) -> AsyncIterator[Any]:
        async with Journey(self._kit, call, self._book) as journey:
            inside = travelling(journey)
            with inside:
                stream = await self._prepared(call)()
            if not compat.is_stream(stream):
                yield Opening(stream)
                return
            async with compat.aclosing(stream):
                with inside:
                    chunk = await anext(stream, _END)
                yield Opening(stream)
                while chunk is not _END:
                    yield chunk
                    with inside:
                        chunk = await anext(stream, _END)
