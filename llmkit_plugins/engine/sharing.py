"""One upstream, many callers: an append-only log of what it said, and a seat with a cursor for each caller.

Under asyncio the upstream is a task of its own. In threads whoever needs the next chunk pulls it, so that nobody costs
a thread. Both run in a copy of the context of the caller who started them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import aclosing, suppress
from contextvars import ContextVar, copy_context
from threading import TIMEOUT_MAX, Lock, RLock
from typing import Any, Generic, TypeVar

from llmkit_plugins.call import Call, Response
from llmkit_plugins.clock import Clock
from llmkit_plugins.engine.size import SAMPLED, size_of
from llmkit_plugins.errors import TimedOut, UpstreamLost
from llmkit_plugins.steps import Share

log = logging.getLogger("llmkit")

_inside: ContextVar[tuple[Hashable, ...]] = ContextVar("llmkit_inside", default=())
_END: Any = object()
Copy = Callable[[Any], Any]
Chunk = TypeVar("Chunk")
Key = tuple[Hashable, ...]
"""What is asked, streamed or not, and the event loop."""
Chunks = TypeVar("Chunks")
Source = Callable[["Flight[Any]"], Chunks]
"""Opens the upstream of a flight, which runs until the flight's deadline."""
Waiter = TypeVar("Waiter")


def same(chunk: Chunk) -> Chunk:
    """*chunk* itself: nobody changes it."""
    return chunk


class Flights:
    """What is under way, by key. Streamed and whole answers, each event loop, and threads are kept apart."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = RLock()  # re-entrant: a stream that is collected as garbage leaves at any allocation
        self.joinable: dict[Key, Flight[Any]] = {}
        self.under_way: set[Flight[Any]] = set()
        self.joined = 0
        """How many callers took a seat at a flight that another had started."""

    def __len__(self) -> int:
        return len(self.under_way)

    def join(self, share: Share, call: Call, source: Source[Iterator[Any]], copy: Copy) -> Seat | None:
        """A seat in this thread at the flight for *share*, which starts from *source* if there is none; None: go
        alone."""
        flight, _ = self._board((share.key, call.stream, None), share, call, ThreadFlight, source)
        return None if flight is None else Seat(flight, call, copy)

    def ajoin(self, share: Share, call: Call, source: Source[AsyncIterator[Any]], copy: Copy) -> AsyncSeat | None:
        """The same under the running event loop."""
        loop = asyncio.get_running_loop()
        flight, new = self._board((share.key, call.stream, loop), share, call, TaskFlight, source)
        if flight is None:
            return None
        if new:
            flight.depart()
        return AsyncSeat(flight, call, copy)

    def _board(self, key: Key, share: Share, call: Call, kind: Any, source: Any) -> Any:
        if key in _inside.get():  # a hook of this very upstream is calling: it would wait for itself
            return None, False
        self.lock.acquire()  # half the price of ``with``, and every caller pays it
        try:
            flight = self.joinable.get(key)
            new = flight is None or not flight.admits(share)
            if flight is None or new:
                if share.max_flights is not None and len(self.under_way) >= share.max_flights:
                    return None, False
                flight = self.joinable[key] = kind(self, key, call, source)
                flight.landed = share.landed
                self.under_way.add(flight)
            else:
                self.joined += 1
            flight.board(call)
            return flight, new
        finally:
            self.lock.release()

    def seats(self) -> int:
        """How many callers sit at what is under way."""
        with self.lock:
            return sum(flight.seats for flight in self.under_way)

    def held_bytes(self) -> int:
        """Bytes of the chunks of what is under way, by estimate."""
        with self.lock:
            return sum(flight.held_bytes() for flight in self.under_way)

    def seal(self, key: Hashable) -> bool:
        """Nobody joins the flights of *key* any more; who has a seat keeps it. Whether there was one."""
        with self.lock:
            sealed = [wide for wide in self.joinable if wide[0] == key]
            for wide in sealed:
                del self.joinable[wide]
        return bool(sealed)

    def tasks(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[None]]:
        """The upstreams under way on *loop*."""
        mine = [f.task for f in list(self.under_way) if isinstance(f, TaskFlight) and f.loop is loop]
        return [task for task in mine if task is not None]

    def close(self) -> None:
        """Stop every upstream; their callers get ``UpstreamLost``."""
        for flight in list(self.under_way):
            flight.land(UpstreamLost("the kit was closed"))
            flight.stop()


class Flight(Generic[Waiter]):
    """The upstream that *call* started, and everything it has said so far."""

    __slots__ = (
        "_bytes",
        "_measured",
        "born",
        "call",
        "error",
        "flights",
        "key",
        "landed",
        "log",
        "over",
        "seats",
        "waiting",
    )

    def __init__(self, flights: Flights, key: Key, call: Call) -> None:
        self.flights, self.key, self.call = flights, key, call
        self.born = flights.clock()
        self.log: list[Any] = []
        self.waiting: list[Waiter] = []
        self.landed: Callable[[Flight[Any]], None] | None = None
        self.seats = self._bytes = self._measured = 0
        self.over = False
        self.error: BaseException | None = None

    def board(self, call: Call) -> None:  # noqa: ARG002
        """One caller more."""
        self.seats += 1

    def admits(self, share: Share) -> bool:
        """Whether one more may join, by its bounds."""
        if log := self.log:
            if share.max_chunks is not None and len(log) > share.max_chunks:
                return False
            if share.max_bytes is not None and self.held_bytes() > share.max_bytes:
                return False
        return share.max_age_seconds is None or self.flights.clock() - self.born <= share.max_age_seconds

    def held_bytes(self) -> int:
        """Bytes of its chunks, by estimate: of the new ones since it was last asked, every 16th stands for the next."""
        while (new := min(SAMPLED, len(self.log) - self._measured)) > 0:
            self._bytes += new * size_of(self.log[self._measured])
            self._measured += new
        return self._bytes

    def land(self, error: BaseException | None) -> None:
        """Nothing more will come, and nobody joins any more."""
        with self.flights.lock:
            if self.over:
                return
            self.over, self.error = True, error
            self.flights.under_way.discard(self)
            if self.flights.joinable.get(self.key) is self:
                del self.flights.joinable[self.key]
        if error is None and self.landed is not None:
            try:
                self.landed(self)
            except Exception:
                log.exception("what wanted to know of a shared answer failed; its callers have it all the same")

    def leave(self) -> None:
        """One caller less; the last one to leave stops the upstream."""
        with self.flights.lock:
            self.seats -= 1
            if self.seats:
                return
            if self.over:
                self.error = None  # its traceback holds frames that hold this flight
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
    """Advances when somebody pulls, always in the context of the caller who started it.

    Who pulls cannot leave before the chunk is there, so the upstream has the time of the most patient who boarded.
    """

    __slots__ = ("context", "deadline", "lock", "pulling", "source")

    def __init__(self, flights: Flights, key: Key, call: Call, source: Source[Iterator[Any]]) -> None:
        super().__init__(flights, key, call)
        self.lock, self.pulling, self.context = Lock(), False, copy_context()
        self.context.run(_inside.set, (*_inside.get(), key))
        self.deadline = call.deadline
        self.source = source(self)

    def board(self, call: Call) -> None:
        super().board(call)
        if self.deadline is not None:
            self.deadline = None if call.deadline is None else max(self.deadline, call.deadline)

    def more(self, at: int, deadline: float | None) -> bool:
        """Wait until chunk *at* is there, pulling if nobody does; False when there is none."""
        while True:
            with self.lock:
                if at < len(self.log) or self.over:
                    return at < len(self.log) or not self.ended()
                left = -1.0 if deadline is None else _left(deadline, self.flights.clock)
                if left == 0.0:
                    raise TimedOut("the call's deadline has passed while it shared an answer")
                gate = self._gate() if self.pulling else None
                self.pulling = True
            if gate is None:
                self._pull()
            else:
                gate.acquire(timeout=min(left, TIMEOUT_MAX))

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
        if self.over and chunk is not _END:
            self.stop()

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
        with self.lock:
            self.wake()
            if self.pulling:  # who does comes here when that chunk is there
                return
            self.pulling = True
        self.context.run(self.source.close)  # type: ignore[attr-defined]


class TaskFlight(Flight["asyncio.Future[None]"]):
    """Runs as a task: whoever is cancelled, it is not. Its callers leave at their deadlines; it has none itself."""

    __slots__ = ("loop", "source", "task")
    deadline: float | None = None

    def __init__(self, flights: Flights, key: Key, call: Call, source: Source[AsyncIterator[Any]]) -> None:
        super().__init__(flights, key, call)
        self.loop = asyncio.get_running_loop()
        self.task: asyncio.Task[None] | None = None
        self.source = source

    def depart(self) -> None:
        """Start the task, outside the lock: an eager one runs at once."""
        self.task = self.loop.create_task(self._fly())
        self.task.add_done_callback(self._lost)

    async def _fly(self) -> None:
        _inside.set((*_inside.get(), self.key))
        error: BaseException | None = UpstreamLost("the shared upstream was cancelled")
        try:
            async with aclosing(self.source(self)) as source:  # type: ignore[type-var]
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

    def _lost(self, task: asyncio.Task[None]) -> None:
        """A task that was cancelled before its first step never reached its ``finally``."""
        self.land(UpstreamLost("the shared upstream was cancelled"))
        self.wake()
        self.task = None  # its error holds frames that hold this flight
        if not task.cancelled():
            task.exception()  # its callers have been told

    def news(self) -> asyncio.Future[None]:
        """To be awaited: something has happened."""
        news: asyncio.Future[None] = asyncio.Future(loop=self.loop)
        self.waiting.append(news)
        return news

    async def news_before(self, deadline: float) -> None:
        """Wait until something has happened, at most until *deadline*."""
        try:
            async with asyncio.timeout(_left(deadline, self.flights.clock)):
                await self.news()
        except TimeoutError:
            raise TimedOut("the call's deadline has passed while it shared an answer") from None

    def wake(self) -> None:
        waiting = self.waiting[:]
        self.waiting.clear()  # the list itself stays: who reads puts his futures there
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def stop(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and its tasks with it
            self.loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        if self.task is not None:
            self.task.cancel()
        self.wake()


class Seat:
    """One caller's place at a flight, in a thread."""

    __slots__ = ("at", "call", "copy", "flight", "log")

    def __init__(self, flight: Any, call: Call, copy: Copy) -> None:
        self.flight, self.call, self.copy, self.at = flight, call, copy, 0
        self.log = flight.log

    def leave(self) -> None:
        """Give the place up, once."""
        self.flight.leave()

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
    """One caller's place at a flight, under an event loop. Who sits there reads the log himself, and between chunks
    does what ``news`` does: an iterator would cost as much as a third of waking him, a method a twentieth."""

    __slots__ = ()

    async def whole(self) -> Any:
        log, flight, deadline = self.log, self.flight, self.call.deadline
        while not log:
            if flight.over:
                flight.ended()
                raise EOFError("the shared upstream ended without an answer")
            await (flight.news() if deadline is None else flight.news_before(deadline))
        return self.copy(log[-1])


def _left(deadline: float, clock: Clock) -> float:
    return max(0.0, deadline - clock())
