"""A shared upstream under asyncio, in its own task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Generator
from contextlib import suppress
from types import coroutine
from typing import TYPE_CHECKING, Any

from llmkit_plugins.call import Call
from llmkit_plugins.engine.flights import Flight, Key, Source, inside
from llmkit_plugins.errors import TimedOut, UpstreamLost

if TYPE_CHECKING:
    from llmkit_plugins.engine.sharing import Flights


class TaskFlight(Flight["asyncio.Future[None]"]):
    """Runs as a task, so cancelling a caller does not cancel it. Callers leave at their deadlines; it has none."""

    __slots__ = ("loop", "source", "task")
    deadline: float | None = None

    def __init__(self, flights: Flights, key: Key, call: Call, source: Source[Awaitable[Any]]) -> None:
        super().__init__(flights, key, call)
        self.loop = asyncio.get_running_loop()
        self.task: asyncio.Task[None] | None = None
        self.source = source

    def depart(self) -> None:
        """Start the task, outside the lock: an eager task runs immediately.

        A task cancelled before its first step would never enter its ``try``, so the coroutine is advanced into it
        beforehand. (A done callback would cost another turn of the loop, a tenth of the total.)
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
            self.task = None  # its error references frames that reference this flight
            self.wake()

    async def hear(self, chunks: AsyncIterable[Any]) -> None:
        """Append all *chunks* to the log, waking the waiters for each."""
        log, waiting, wake = self.log, self.waiting, self.wake
        async for chunk in chunks:
            log.append(chunk)
            if waiting:
                wake()
            if self.over:
                self._heed()

    def _heed(self) -> None:
        """Stop if a cancellation was lost: Python 3.11's ``wait_for``, used by HTTP clients, swallows one that arrives
        together with a chunk."""
        if self.task is not None and self.task.cancelling():
            raise asyncio.CancelledError

    def news(self) -> asyncio.Future[None]:
        """A future that is done at the next chunk or the end."""
        news: asyncio.Future[None] = asyncio.Future(loop=self.loop)
        self.waiting.append(news)
        return news

    async def news_before(self, deadline: float) -> None:
        """Wait for :meth:`news`, at most until *deadline*."""
        try:
            async with asyncio.timeout(self.time_left(deadline)):
                await self.news()
        except TimeoutError:
            raise TimedOut("the call's deadline has passed while it shared an answer") from None

    def wake(self) -> None:
        waiting = self.waiting[:]
        self.waiting.clear()  # keep the same list: readers hold a reference to it
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def stop(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and its tasks are gone
            self.loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        if self.task is not None:
            self.task.cancel()
        self.wake()


@coroutine
def _ready() -> Generator[None, None, None]:
    """Suspend the coroutine here until its task takes over."""
    yield


def _heard(task: asyncio.Task[None]) -> None:
    """Retrieve the error of *task*, which its callers have received, so that the loop does not log it."""
    if not task.cancelled():
        task.exception()
