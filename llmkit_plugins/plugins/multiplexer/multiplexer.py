"""Many subscribers, one upstream. Independent of hooks and frameworks."""

from __future__ import annotations

from asyncio import Future
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from typing import Any, TypeVar, cast

from llmkit_plugins.call import Attempt, Call
from llmkit_plugins.clock import SYSTEM_CLOCK, Clock
from llmkit_plugins.engine.seats import Copy, same
from llmkit_plugins.engine.sharing import Flights
from llmkit_plugins.engine.task_flights import TaskFlight
from llmkit_plugins.forks import new_lock
from llmkit_plugins.plugins.multiplexer.config import MultiplexerConfig
from llmkit_plugins.plugins.multiplexer.key import Alone, Keys
from llmkit_plugins.plugins.multiplexer.retained import Kept, Retained
from llmkit_plugins.steps import Share

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MultiplexerStats:
    """What a multiplexer is doing, and what it has saved since it was created."""

    active_requests: int
    """Upstream requests in flight that callers may join, or have joined."""
    total_subscribers: int
    """Callers waiting for these or reading from them, in total."""
    upstream_calls_saved: int
    """Calls that joined another's upstream request, or were served a retained answer."""
    tokens_saved: int
    """Tokens of answers produced for another call. Only a kit counts them: 0 without one."""
    usd_saved: float
    """What those tokens would have cost, by the prices of the targets that answered."""
    bytes_held: int
    """Estimated memory of the chunks of requests in flight and of retained answers."""
    retained_answers: int
    """Finished answers kept for late callers."""


class StreamingMultiplexer:
    """Serves identical calls in flight from one upstream request, streamed or whole, under asyncio or in threads.

    The chunks are stored in one log. Each subscriber reads it from the first chunk to the last at its own pace, however
    late it joined. The upstream runs independently: any caller may leave, and when the last one leaves it is stopped.
    An error reaches every subscriber after the chunks that preceded it. Nothing is shared between event loops, or
    between an event loop and threads.

    *copy* gives each subscriber its own copy of a chunk, for recipients that modify chunks. *flights* are those of a
    kit, to share with its calls (the kit's clock then applies). *settings* are those of :class:`MultiplexerConfig`.
    Raises ``ConfigError``.
    """

    def __init__(
        self, *, clock: Clock = SYSTEM_CLOCK, copy: Copy = same, flights: Flights | None = None, **settings: Any
    ) -> None:
        self.config = config = MultiplexerConfig(**settings)
        self.flights = Flights(clock) if flights is None else flights
        self._copy = copy
        self._keys = Keys(config)
        self._retained = Retained(config, self.flights.clock) if config.retain_seconds else None
        self._counting = new_lock()
        self._tokens_saved, self._usd_saved = 0, 0.0
        self._bounds = (
            config.max_age_seconds,
            config.max_chunks_per_stream,
            config.max_bytes_per_stream,
            config.max_streams,
            None if self._retained is None else self._retained.keep,
        )

    # -- what it decides --------------------------------------------------------------------------------------------

    def decide(self, call: Call) -> Share | Kept | None:
        """What becomes of *call*: it shares an upstream, is answered from what was kept, or (None) goes alone."""
        try:
            key = self._keys.of(call)
        except Alone:
            return None
        if self._retained is not None and (kept := self._retained.get(key, stream=call.stream)) is not None:
            return kept
        return Share(key, *self._bounds)

    def why_alone(self, call: Call) -> str | None:
        """Why *call* is not shared with any other; None if it can be."""
        try:
            self._keys.of(call)
        except Alone as reason:
            return str(reason)
        return None

    def complete_request(self, call: Call) -> bool:
        """Consider the request of *call* done: identical calls start afresh from now on, and no retained
        answer serves them.

        Existing subscribers get the rest. Returns whether there was anything to complete.
        """
        try:
            key = self._keys.of(call)
        except Alone:
            return False
        joinable = self.flights.seal(key)
        retained = self._retained is not None and self._retained.drop(key)
        return joinable or retained

    # -- using it alone ---------------------------------------------------------------------------------------------

    async def subscribe(
        self, call: Call, start: Callable[[], AsyncIterable[T] | Awaitable[AsyncIterable[T]]]
    ) -> AsyncIterator[T]:
        """The chunks of the answer to *call*: of the stream under way for identical calls, or of the one that *start*
        opens."""
        call.stream = True
        place = self._place(call, self.flights.ajoin, partial(_atell, start))
        if place is None:
            async with aclosing(_achunks(start)) as chunks:
                async for chunk in chunks:
                    yield chunk
        elif type(place) is Kept:
            for chunk in place.log:
                yield self._copy(chunk)
        else:
            at, log, flight, deadline, copy = 0, place.log, place.flight, call.deadline, self._copy
            waiting, loop = flight.waiting, flight.loop
            try:
                while True:
                    if at < len(log):
                        chunk = log[at]
                        at += 1
                        yield chunk if copy is same else copy(chunk)
                    elif flight.over and flight.ended():
                        return
                    elif deadline is None:
                        news: Future[None] = Future(loop=loop)
                        waiting.append(news)
                        await news
                    else:
                        await flight.news_before(deadline)
            finally:
                place.flight.leave()

    def subscribe_sync(self, call: Call, start: Callable[[], Iterable[T]]) -> Iterator[T]:
        """The same in threads: whoever needs the next chunk reads it for all."""
        call.stream = True
        place = self._place(call, self.flights.join, partial(_chunks, start))
        if place is None:
            with closing(_chunks(start)) as chunks:
                yield from chunks
        elif type(place) is Kept:
            yield from map(self._copy, place.log)
        else:
            try:
                yield from place
            finally:
                place.flight.leave()

    async def answer(self, call: Call, start: Callable[[], Awaitable[T]]) -> T:
        """The whole answer to *call*: what the request under way for identical calls returns, or what *start* does."""
        call.stream = False
        place = self._place(call, self.flights.ajoin, lambda _: start())
        if place is None:
            return await start()
        if type(place) is Kept:
            return cast("T", self._copy(place.log[-1]))
        try:
            return cast("T", await place.whole())
        finally:
            place.flight.leave()

    def answer_sync(self, call: Call, start: Callable[[], T]) -> T:
        """The same in threads."""
        call.stream = False
        place = self._place(call, self.flights.join, lambda _: start())
        if place is None:
            return start()
        if type(place) is Kept:
            return cast("T", self._copy(place.log[-1]))
        try:
            return cast("T", place.whole())
        finally:
            place.flight.leave()

    def _place(self, call: Call, join: Callable[..., Any], source: Callable[..., Any]) -> Any:
        """A seat at the upstream for *call*, its retained answer, or None if it goes alone."""
        decision = self.decide(call)
        return join(decision, call, source, self._copy) if type(decision) is Share else decision

    # -- what it did ------------------------------------------------------------------------------------------------

    def saved(self, attempt: Attempt) -> None:
        """Another call was answered by *attempt*, too."""
        with self._counting:
            self._tokens_saved += attempt.usage.total_tokens if attempt.usage else 0
            self._usd_saved += attempt.cost or 0.0

    def stats(self) -> MultiplexerStats:
        """What is under way and what was saved."""
        kept = self._retained
        return MultiplexerStats(
            active_requests=len(self.flights),
            total_subscribers=self.flights.seats(),
            upstream_calls_saved=self.flights.joined + (0 if kept is None else kept.hits),
            tokens_saved=self._tokens_saved,
            usd_saved=self._usd_saved,
            bytes_held=self.flights.held_bytes() + (0 if kept is None else kept.held_bytes()),
            retained_answers=0 if kept is None else len(kept),
        )

    def close(self) -> None:
        """Stop every upstream, so that its subscribers get ``UpstreamLost``, and discard retained answers."""
        self.flights.close()
        if self._retained is not None:
            self._retained.clear()


async def _atell(start: Callable[[], Any], flight: TaskFlight) -> None:
    async with aclosing(_achunks(start)) as chunks:
        await flight.hear(chunks)


async def _achunks(start: Callable[[], Any]) -> AsyncGenerator[Any, None]:
    stream = start()
    if isawaitable(stream):
        stream = await stream
    try:
        async for chunk in stream:
            yield chunk
    finally:
        # generators have aclose, clients' streams an awaitable close
        close = getattr(stream, "aclose", None) or getattr(stream, "close", None)
        if close is not None and isawaitable(closing := close()):
            await closing


def _chunks(start: Callable[[], Any], _: object = None) -> Generator[Any, None, None]:
    stream = start()
    try:
        yield from stream
    finally:
        if (close := getattr(stream, "close", None)) is not None:
            close()
