"""One upstream, many callers: an append-only log of what it said, and a seat with a cursor for each caller.

Under asyncio the upstream is a task of its own. In threads whoever needs the next chunk pulls it, so that nobody costs
a thread. Both run in a copy of the context of the caller who started them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import aclosing, suppress
from contextvars import ContextVar, copy_context
from threading import Lock, RLock
from typing import Any, Generic, TypeVar

from llmkit_plugins.call import Call, Response
from llmkit_plugins.clock import Clock
from llmkit_plugins.errors import TimedOut, UpstreamLost
from llmkit_plugins.steps import Share

_inside: ContextVar[tuple[Hashable, ...]] = ContextVar("llmkit_inside", default=())
_END: Any = object()
Copy = Callable[[Any], Any]
Waiter = TypeVar("Waiter")


class Flights:
    """What is under way, by key. Streamed and whole answers, each event loop, and threads are kept apart."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = RLock()  # re-entrant: a stream that is collected as garbage leaves at any allocation
        self.joinable: dict[Hashable, Flight[Any]] = {}
        self.under_way: set[Flight[Any]] = set()

    def __len__(self) -> int:
        return len(self.under_way)

    def join(self, share: Share, call: Call, source: Callable[[], Iterator[Any]], copy: Copy) -> Seat | None:
        """A seat in this thread at the flight for *share*, which starts from *source* if there is none; None: go
        alone."""
        flight, _ = self._board((share.key, call.stream, None), share, call, ThreadFlight, source)
        return None if flight is None else Seat(flight, call, copy)

    def ajoin(self, share: Share, call: Call, source: Callable[[], AsyncIterator[Any]], copy: Copy) -> AsyncSeat | None:
        """The same under the running event loop."""
        loop = asyncio.get_running_loop()
        flight, new = self._board((share.key, call.stream, loop), share, call, TaskFlight, source)
        if flight is None:
            return None
        if new:
            flight.depart(loop)
        return AsyncSeat(flight, call, copy)

    def _board(self, key: Hashable, share: Share, call: Call, kind: Any, source: Any) -> Any:
        if key in _inside.get():  # a hook of this very upstream is calling: it would wait for itself
            return None, False
        with self.lock:
            flight = self.joinable.get(key)
            new = flight is None or not flight.admits(share)
            if flight is None or new:
                if share.max_flights is not None and len(self.under_way) >= share.max_flights:
                    return None, False
                flight = self.joinable[key] = kind(self, key, call, source)
                self.under_way.add(flight)
            flight.seats += 1
        return flight, new

    def tasks(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[None]]:
        """The upstreams under way on *loop*."""
        return [f.task for f in list(self.under_way) if isinstance(f, TaskFlight) and f.loop is loop]

    def close(self) -> None:
        """Stop every upstream; their callers get ``UpstreamLost``."""
        for flight in list(self.under_way):
            flight.land(UpstreamLost("the kit was closed"))
            flight.wake()
            flight.stop()


class Flight(Generic[Waiter]):
    """The upstream that *call* started, and everything it has said so far."""

    __slots__ = ("born", "call", "error", "flights", "key", "log", "over", "seats", "waiting")

    def __init__(self, flights: Flights, key: Hashable, call: Call) -> None:
        self.flights, self.key, self.call = flights, key, call
        self.born = flights.clock()
        self.log: list[Any] = []
        self.waiting: list[Waiter] = []
        self.seats = 0
        self.over = False
        self.error: BaseException | None = None

    def admits(self, share: Share) -> bool:
        """Whether one more may join, by its bounds."""
        if share.max_chunks is not None and len(self.log) > share.max_chunks:
            return False
        return share.max_age_seconds is None or self.flights.clock() - self.born <= share.max_age_seconds

    def land(self, error: BaseException | None) -> None:
        """Nothing more will come, and nobody joins any more."""
        if isinstance(error, StopIteration | StopAsyncIteration):  # would read as the end of the answer
            error = RuntimeError(f"the upstream raised {error!r}")
        with self.flights.lock:
            if not self.over:
                self.over, self.error = True, error
                self.flights.under_way.discard(self)
                if self.flights.joinable.get(self.key) is self:
                    del self.flights.joinable[self.key]

    def leave(self) -> None:
        """One caller less; the last one to leave stops the upstream."""
        with self.flights.lock:
            self.seats -= 1
            if self.seats or self.over:
                return
            self.land(UpstreamLost("everybody had left"))
        self.stop()

    def wake(self) -> None:
        """Tell each waiter; it has a future or a gate of its own, so one that goes away takes nobody along."""
        raise NotImplementedError

    def ended(self) -> bool:
        """Whether it ended well; raises what it ended with."""
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self.over

    def stop(self) -> None:
        raise NotImplementedError


class ThreadFlight(Flight[Lock]):
    """Advances when somebody pulls, always in the context of the caller who started it."""

    __slots__ = ("context", "lock", "pulling", "source")

    def __init__(self, flights: Flights, key: Hashable, call: Call, source: Callable[[], Iterator[Any]]) -> None:
        super().__init__(flights, key, call)
        self.lock, self.pulling, self.context = Lock(), False, copy_context()
        self.context.run(_inside.set, (*_inside.get(), key))
        self.source = source()

    def more(self, at: int, deadline: float | None) -> bool:
        """Wait until chunk *at* is there, pulling if nobody does; False when there is none."""
        while True:
            with self.lock:
                if at < len(self.log) or self.over:
                    return at < len(self.log) or not self.ended()
                gate = self._gate() if self.pulling else None
                self.pulling = True
            if gate is None:
                self._pull()
            elif not gate.acquire(timeout=_left(deadline, self.flights.clock, -1.0)):
                raise TimedOut("the call's deadline has passed while it shared an answer")

    def _pull(self) -> None:
        chunk, error = _END, None
        interrupted: BaseException | None = UpstreamLost("the caller who was reading for all was interrupted")
        try:
            chunk, interrupted = self.context.run(next, self.source, _END), None
        except Exception as failure:
            error, interrupted = failure, None
        finally:
            with self.lock:
                if chunk is _END:
                    self.land(error or interrupted)
                else:
                    self.log.append(chunk)
                self.pulling = False
                self.wake()
            del error

    def _gate(self) -> Lock:
        # not the flight's lock itself: who pulls retakes that at once, and the others would starve
        gate = Lock()
        gate.acquire()
        self.waiting.append(gate)
        return gate

    def wake(self) -> None:
        waiting, self.waiting = self.waiting, []
        for gate in waiting:
            gate.release()

    def stop(self) -> None:
        with suppress(ValueError):  # another thread is pulling: it ends with that chunk
            self.context.run(self.source.close)  # type: ignore[attr-defined]


class TaskFlight(Flight["asyncio.Future[None]"]):
    """Runs as a task: whoever is cancelled, it is not."""

    __slots__ = ("loop", "source", "task")

    def __init__(self, flights: Flights, key: Hashable, call: Call, source: Callable[[], AsyncIterator[Any]]) -> None:
        super().__init__(flights, key, call)
        self.source = source

    def depart(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.task = loop.create_task(self._fly())
        self.task.add_done_callback(self._lost)

    async def _fly(self) -> None:
        _inside.set((*_inside.get(), self.key))
        error: BaseException | None = UpstreamLost("the shared upstream was cancelled")
        try:
            async with aclosing(self.source()) as source:  # type: ignore[type-var]
                async for chunk in source:
                    self.log.append(chunk)
                    self.wake()
            error = None
        except Exception as failure:
            error = failure
        finally:
            self.land(error)
            self.wake()
            del error

    def _lost(self, _: object) -> None:
        """A task that was cancelled before its first step never reached its ``finally``."""
        self.land(UpstreamLost("the shared upstream was cancelled"))
        self.wake()

    def news(self) -> asyncio.Future[None]:
        """To be awaited: something has happened."""
        future = self.loop.create_future()
        self.waiting.append(future)
        return future

    async def news_before(self, deadline: float) -> None:
        """Wait until something has happened, at most until *deadline*."""
        try:
            async with asyncio.timeout(_left(deadline, self.flights.clock, 0.0)):
                await self.news()
        except TimeoutError:
            raise TimedOut("the call's deadline has passed while it shared an answer") from None

    def wake(self) -> None:
        if waiting := self.waiting:
            self.waiting = []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def stop(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and its tasks with it
            self.loop.call_soon_threadsafe(self.task.cancel)


class Seat:
    """One caller's place at a flight, in a thread."""

    __slots__ = ("at", "call", "copy", "flight", "leave", "log")

    def __init__(self, flight: Any, call: Call, copy: Copy) -> None:
        self.flight, self.call, self.copy, self.at = flight, call, copy, 0
        self.log, self.leave = flight.log, flight.leave

    def __iter__(self) -> Iterator[Any]:
        log, more, copy, deadline = self.log, self.flight.more, self.copy, self.call.deadline
        while (at := self.at) < len(log) or more(at, deadline):
            self.at = at + 1
            yield copy(log[at])

    def whole(self) -> Any:
        """The whole answer: all there is where it is not streamed."""
        for chunk in self:
            whole = chunk
        return whole

    def answered(self) -> bool:
        """Whether this caller was handed all there is, up to the provider's last word."""
        attempts = self.flight.call.attempts
        return self.at == len(self.log) > 0 and bool(attempts) and attempts[-1].finish_reason is not None

    def response(self, raw: Any) -> Response:
        """What this caller's call ended with."""
        leader = self.flight.call
        answered_by = leader.attempts[-1] if leader.attempts else None
        return Response(raw, answered_by, None if leader is self.call else leader.id)


class AsyncSeat(Seat):
    """One caller's place at a flight, under an event loop."""

    __slots__ = ()

    def __aiter__(self) -> AsyncSeat:
        return self

    async def __anext__(self) -> Any:
        at, log, flight = self.at, self.log, self.flight
        while at >= len(log):
            if flight.over:
                flight.ended()
                raise StopAsyncIteration
            deadline = self.call.deadline
            await (flight.news() if deadline is None else flight.news_before(deadline))
        self.at = at + 1
        return self.copy(log[at])

    async def whole(self) -> Any:
        return await anext(self)


def _left(deadline: float | None, clock: Clock, for_ever: float) -> float:
    return for_ever if deadline is None else max(0.0, deadline - clock())
