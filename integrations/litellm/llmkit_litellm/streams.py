"""The two streams that wrap LiteLLM's: the one the Router reads, and the one the caller reads.

Each is an instance of the wrapped stream's class, since LiteLLM and its users check for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Self

from llmkit_litellm import compat, followers
from llmkit_litellm.errors import as_litellm, original
from llmkit_litellm.journey import sending
from llmkit_litellm.operations import Request
from llmkit_litellm.reading import Reading
from llmkit_plugins.clock import Clock
from llmkit_plugins.engine.handle import Handle
from llmkit_plugins.errors import LLMKitError

_END: Any = object()


class AttemptStream:
    """The stream of one attempt, as a Router reads it. The attempt learns from each chunk, and ends with the stream.

    Opening it reads up to the first chunk that says something: a provider that fails before that has failed to answer,
    which the Router can retry.
    """

    model: str

    def begin(self, stream: Any, handle: Handle, clock: Clock) -> Self:
        """Wrap *stream*."""
        self._inner, self._handle, self._clock = stream, handle, clock
        self._reading = Reading(handle.attempt, stream)
        self._held: deque[Any] = deque()
        self._handed: float | None = None
        return self

    def open(self) -> Self:
        """Read up to the first chunk that says something. Raises the provider's error."""
        try:
            while not self._reading.said:
                self._held.append(self._pull())
        except BaseException as error:
            self._handle.fail(original(error))
            self.close()
            failure = self._opening_error(error)
            raise failure from failure.__cause__
        return self

    async def aopen(self) -> Self:
        """The same, async."""
        try:
            while not self._reading.said:
                self._held.append(await self._apull())
        except BaseException as error:
            self._handle.fail(original(error))
            await self.aclose()
            failure = self._opening_error(error)
            raise failure from failure.__cause__
        return self

    def _opening_error(self, error: BaseException) -> BaseException:
        if isinstance(error, LLMKitError):
            return as_litellm(error, self.model)
        return original(error)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._held:
            return self._hand(self._held.popleft())
        try:
            self._resume()
            return self._hand(self._pull())
        except StopIteration:
            self._handle.finish()
            raise
        except BaseException as error:
            self._handle.fail(original(error))
            raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._held:
            return self._hand(self._held.popleft())
        self._resume()
        try:
            return self._hand(await self._apull())
        except StopAsyncIteration:
            self._handle.finish()
            raise
        except BaseException as error:
            self._handle.fail(original(error))
            raise

    def close(self) -> None:
        """Close the connection; if the stream has not ended, its reader left early."""
        try:
            compat.close_stream(self._inner)
        finally:
            self._handle.cancel()

    async def aclose(self) -> None:
        """The same, async."""
        try:
            await compat.aclose_stream(self._inner)
        finally:
            self._handle.cancel()

    def _pull(self) -> Any:
        with sending():
            chunk = next(self._inner, _END)
        if chunk is _END:
            self._reading.end()
            raise StopIteration
        return self._learn(chunk)

    async def _apull(self) -> Any:
        with sending():
            chunk = await anext(self._inner, _END)
        if chunk is _END:
            self._reading.end()
            raise StopAsyncIteration
        return self._learn(chunk)

    def _learn(self, chunk: Any) -> Any:
        self._handle.chunk(chunk)
        if self._reading.read(chunk):
            self._handle.first_chunk()
        return chunk

    def _hand(self, chunk: Any) -> Any:
        self._handed = self._clock()
        return chunk

    def _resume(self) -> None:
        """Count the time since the last chunk as the reader's, not the provider's."""
        if self._handed is not None:
            self._handle.attempt.paused_seconds += self._clock() - self._handed


class Opening:
    """The first item a stream yields: LiteLLM's stream as opened, a model for the streams that share it."""

    __slots__ = ("stream",)

    def __init__(self, stream: Any) -> None:
        self.stream = stream


class CallerStream:
    """The stream a caller gets: it yields what the kit yields."""

    model: str
    chunks: list[Any]

    def begin(self, request: Request, source: Any, held: Sequence[Any]) -> Self:
        """Yield *held*, then what *source* yields."""
        self._request, self._source, self._held = request, source, deque(held)
        self._shared: list[Any] | None = None
        if not request.call.attempts:
            self._shared, self.chunks = [], []  # a proxy bills the ``chunks`` of an abandoned stream
            compat.mark_cached(self, request.call.id)
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            chunk = self._held.popleft() if self._held else next(self._source)
        except StopIteration:
            self._tell()
            raise
        except LLMKitError as error:
            raise as_litellm(error, self.model) from error
        if self._shared is not None:
            self._shared.append(chunk)
        return chunk

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            chunk = self._held.popleft() if self._held else await anext(self._source)
        except StopAsyncIteration:
            self._tell()
            raise
        except LLMKitError as error:
            raise as_litellm(error, self.model) from error
        if self._shared is not None:
            self._shared.append(chunk)
        return chunk

    def close(self) -> None:
        """Leave the stream: it is stopped unless others share it."""
        self._source.close()
        self._tell()

    async def aclose(self) -> None:
        """The same, async."""
        await self._source.aclose()
        self._tell()

    def _tell(self) -> None:
        chunks, self._shared = self._shared, None
        if chunks and self._request.call.outcome == "ok":
            followers.tell(self._request, chunks)


_ATTEMPT_STREAMS = {base: type("AttemptStream", (AttemptStream, base), {}) for base in compat.STREAMS}
_CALLER_STREAMS = {base: type("CallerStream", (CallerStream, base), {}) for base in compat.STREAMS}


def attempt_stream(stream: Any, handle: Handle, clock: Clock) -> AttemptStream:
    """An :class:`AttemptStream` around *stream* that is also of its class."""
    ours: AttemptStream = compat.resembling(_ATTEMPT_STREAMS[compat.stream_class(stream)], stream, stream)
    return ours.begin(stream, handle, clock)


def caller_stream(request: Request, source: Any, opened: Any, held: Sequence[Any] = ()) -> CallerStream:
    """A :class:`CallerStream` over *held*, then *source*, that looks like *opened*."""
    ours: CallerStream = compat.resembling(_CALLER_STREAMS[compat.stream_class(opened)], opened, source)
    return ours.begin(request, source, held)
