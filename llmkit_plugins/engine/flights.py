"""An upstream for many callers, and an append-only log of what it said.

Under asyncio it is a task of its own. In threads whoever needs the next chunk pulls it, so that nobody costs a thread.
Both run in a copy of the context of the caller who started them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Hashable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from threading import TIMEOUT_MAX, Lock
from types import coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llmkit_plugins.call import Call
from llmkit_plugins.clock import Clock
from llmkit_plugins.engine.size import SAMPLED, size_of
from llmkit_plugins.errors import TimedOut, UpstreamLost
from llmkit_plugins.steps import Share

if TYPE_CHECKING:
    from llmkit_plugins.engine.sharing import Flights

log = logging.getLogger("llmkit")

inside: ContextVar[tuple[Hashable, ...]] = ContextVar("llmkit_inside", default=())
"""The keys of the upstreams that this very code runs in."""
_END: Any = object()
Key = tuple[Hashable, ...]
"""What is asked, streamed or not, and the event loop."""
Upstream = TypeVar("Upstream")
Source = Callable[[Any], Upstream]
"""Opens the upstream of the flight it is given, which runs until the flight's deadline. In a thread it returns the
chunks to be pulled, or the whole answer; under asyncio it tells the flight the chunks it hears, and returns the whole
answer."""
Waiter = TypeVar("Waiter")


class Flight(Generic[Waiter]):
    """The upstream that *call* started, and everything it has said so far."""

    __slots__ = (
        "_bytes",
        "_measured",
        "boarded",
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
        self.seats = self.boarded = 1
        """Callers who have a place, and who ever had one."""
        self._bytes = self._measured = 0
        self.over = False
        self.error: BaseException | None = None

    def board(self, call: Call) -> None:  # noqa: ARG002
        """One caller more."""
        self.seats += 1
        self.boarded += 1

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

    def complete(self, answer: Any) -> None:
        """The whole *answer* is there."""
        if not self.over:
            self.log.append(answer)
            self.land(None)

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

    Whose turn it is pulls, and cannot leave before the chunk is there: so the upstream has the time of the most patient
    who boarded. The others wait, each at a gate of his own: if they waited for the turn they would starve, since who
    pulled takes it again at once. A gate is in place before its owner looks once more whether to wait, and the turn is
    given back before gates are opened, so that no news passes between the two.
    """

    __slots__ = ("chunks", "context", "deadline", "source", "turn")

    def __init__(self, flights: Flights, key: Key, call: Call, source: Source[Any]) -> None:
        super().__init__(flights, key, call)
        self.turn, self.context = Lock(), copy_context()
        self.deadline = call.deadline
        self.source = source
        self.chunks: Any = self.context.run(self._open) if call.stream else None

    def _open(self) -> Any:
        inside.set((*inside.get(), self.key))
        return self.source(self)

    def board(self, call: Call) -> None:
        super().board(call)
        if self.deadline is not None:
            self.deadline = None if call.deadline is None else max(self.deadline, call.deadline)

    def more(self, at: int, deadline: float | None) -> bool:
        """Wait until chunk *at* is there, pulling if nobody does; False when there is none."""
        log, turn = self.log, self.turn
        while at == len(log):
            if self.over:
                return at < len(log) or not self.ended()  # the last chunk may have come before the end, just now
            if deadline is not None and self.flights.clock() >= deadline:
                raise TimedOut("the call's deadline has passed while it shared an answer")
            if turn.acquire(False):  # noqa: FBT003 - half the price of the keyword, for each chunk
                self._pull(at)
            else:
                self._wait(at, deadline)
        return True

    def _wait(self, at: int, deadline: float | None) -> None:
        """Wait for news of chunk *at* from who pulls, at most until *deadline*."""
        gate = Lock()
        gate.acquire()
        self.waiting.append(gate)
        if at == len(self.log) and not self.over and self.turn.locked():
            left = TIMEOUT_MAX if deadline is None else _left(deadline, self.flights.clock)
            gate.acquire(timeout=min(left, TIMEOUT_MAX))

    def _pull(self, at: int) -> None:
        """Have chunk *at* said, or the whole answer, unless that happened before it was one's turn."""
        try:
            if at < len(self.log) or self.over:
                pass
            elif self.chunks is None:
                self.complete(self.context.run(self._open))
            elif (chunk := self.context.run(next, self.chunks, _END)) is not _END:
                self.log.append(chunk)
            else:
                self.land(None)
        except Exception as failure:
            self.land(failure)
        except BaseException:
            self.land(UpstreamLost("the caller who was reading for all was interrupted"))
            raise
        finally:
            self.turn.release()
            if self.waiting:
                self.wake()
            if self.over and self.chunks is not None:
                self.stop()

    def wake(self) -> None:
        with suppress(IndexError):  # somebody else is waking them, too
            for _ in range(len(self.waiting)):
                self.waiting.pop(0).release()

    def stop(self) -> None:
        """Close the stream, if it is nobody's turn: who pulls comes here when he has given it back."""
        if self.waiting:
            self.wake()
        if self.chunks is not None and self.turn.acquire(blocking=False):  # and nobody's turn ever again
            self.context.run(self.chunks.close)


class TaskFlight(Flight["asyncio.Future[None]"]):
    """Runs as a task: whoever is cancelled, it is not. Its callers leave at their deadlines; it has none itself."""

    __slots__ = ("loop", "source", "task")
    deadline: float | None = None

    def __init__(self, flights: Flights, key: Key, call: Call, source: Source[Awaitable[Any]]) -> None:
        super().__init__(flights, key, call)
        self.loop = asyncio.get_running_loop()
        self.task: asyncio.Task[None] | None = None
        self.source = source

    def depart(self) -> None:
        """Start the task, outside the lock: an eager one runs at once.

        A task that is cancelled before its first step never gets to a ``try``: so it is given one that is there
        already. (To have it call back when it is done costs a turn of the loop, a tenth of all.)
        """
        flying = self._fly()
        flying.send(None)
        self.task = self.loop.create_task(flying, name="llmkit upstream")

    async def _fly(self) -> None:
        try:
            await _ready()
            inside.set((*inside.get(), self.key))
            answer = await self.source(self)
            if self.call.stream:
                self.land(None)
            else:
                self.complete(answer)
        except Exception as failure:
            self.land(failure)
        except BaseException:
            self.land(UpstreamLost("the shared upstream was cancelled"))
            if self.task is not None:
                self.task.add_done_callback(_heard)
            raise
        finally:
            self.task = None  # its error holds frames that hold this flight
            self.wake()

    async def hear(self, chunks: AsyncIterable[Any]) -> None:
        """Put all *chunks* into the log, and tell who waits of each."""
        log, waiting, wake = self.log, self.waiting, self.wake
        async for chunk in chunks:
            log.append(chunk)
            if waiting:
                wake()
            if self.over:
                self._heed()

    def _heed(self) -> None:
        """Stop where what said so was lost: Python 3.11's ``wait_for``, in the clients below, loses a cancellation that
        comes at the same moment as a chunk."""
        if self.task is not None and self.task.cancelling():
            raise asyncio.CancelledError

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


@coroutine
def _ready() -> Generator[None, None, None]:
    """Here its task takes a coroutine over."""
    yield


def _heard(task: asyncio.Task[None]) -> None:
    """What ended *task* has been told to its callers: the loop need not complain."""
    if not task.cancelled():
        task.exception()


def _left(deadline: float, clock: Clock) -> float:
    return max(0.0, deadline - clock())
