"""The stream of an attempt: opened up to its first content, timed, and closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from llmkit_plugins.call import Attempt, Call
from llmkit_plugins.engine.bounds import within
from llmkit_plugins.engine.lifecycle import Relay
from llmkit_plugins.engine.telling import inform
from llmkit_plugins.errors import EmptyAnswer

if TYPE_CHECKING:
    from llmkit_plugins.backend import Backend
    from llmkit_plugins.engine.plan import Bugs


def open_stream(call: Call, attempt: Attempt | None, backend: Backend, bugs: Bugs) -> Relay:
    """Open a stream and read up to the first chunk with content: until then, failover is invisible."""
    source: Any = iter(backend.stream(call, attempt))
    if attempt is not None and attempt.on_chunk is not None:
        source = _overheard(source, partial(inform, bugs, attempt.on_chunk))
    head: list[Any] = []
    try:
        for chunk in source:
            head.append(chunk)
            if backend.says(chunk):
                return Relay(head, source, attempt)
        raise EmptyAnswer("the stream ended before it said anything")
    except BaseException:
        close(source)
        raise


async def aopen_stream(call: Call, attempt: Attempt | None, backend: Backend, bugs: Bugs) -> Relay:
    source: Any = aiter(backend.astream(call, attempt))
    if attempt is not None and attempt.on_chunk is not None:
        source = _aoverheard(source, partial(inform, bugs, attempt.on_chunk))
    head: list[Any] = []
    try:
        async for chunk in source:
            head.append(chunk)
            if backend.says(chunk):
                return Relay(head, source, attempt)
        raise EmptyAnswer("the stream ended before it said anything")
    except BaseException:
        await aclose(source)
        raise


def _overheard(source: Iterator[Any], hear: Callable[[Any], object]) -> Iterator[Any]:
    try:
        for chunk in source:
            hear(chunk)
            yield chunk
    finally:
        close(source)


async def _aoverheard(source: AsyncIterator[Any], hear: Callable[[Any], object]) -> AsyncIterator[Any]:
    try:
        async for chunk in source:
            hear(chunk)
            yield chunk
    finally:
        await aclose(source)


class Paced:
    """*source*, with each chunk limited to the time left."""

    __slots__ = ("left", "source")

    def __init__(self, source: Any, left: Callable[[], float | None]) -> None:
        self.source, self.left = source, left

    def __aiter__(self) -> Paced:
        return self

    async def __anext__(self) -> Any:
        left = self.left()
        return await (anext(self.source) if left is None else within(left, anext(self.source)))

    async def aclose(self) -> None:
        await aclose(self.source)


def close(source: Any) -> None:
    """Close *source* if it can be closed. Errors are ignored: it is no longer needed."""
    if (closes := getattr(source, "close", None)) is not None:
        with suppress(Exception):
            closes()


async def aclose(source: Any) -> None:
    """Close the async *source* if it can be closed."""
    if (closes := getattr(source, "aclose", None)) is not None:
        with suppress(Exception):
            await closes()
