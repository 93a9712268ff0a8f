"""A shared upstream under asyncio: a task of its own."""

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
            async with asyncio.timeout(self.time_left(deadline)):
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
