"""A shared upstream in threads: the caller that needs the next chunk pulls it."""

from __future__ import annotations

from contextlib import suppress
from contextvars import copy_context
from threading import TIMEOUT_MAX, Lock
from typing import TYPE_CHECKING, Any

from llmkit_plugins.call import Call
from llmkit_plugins.engine.flights import Flight, Key, Source, inside
from llmkit_plugins.errors import TimedOut, UpstreamLost

if TYPE_CHECKING:
    from llmkit_plugins.engine.sharing import Flights

_END: Any = object()


class ThreadFlight(Flight[Lock]):
    """Advances when a caller pulls, always in the context of the caller that started it.

    The caller holding the turn pulls, and cannot leave before the chunk arrives; so the upstream gets the latest
    deadline of all that boarded. The others each wait at their own gate: waiting for the turn, they would starve, as
    the puller takes it again immediately. A waiter adds its gate before checking again whether to wait, and the turn
    is released before the gates are opened, so that no wakeup is lost.
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
        """Wait until chunk *at* has arrived, pulling if nobody else is; False if there is none."""
        log, turn = self.log, self.turn
        while at == len(log):
            if self.over:
                return at < len(log) or not self.ended()  # the last chunk may have arrived just before the end
            if deadline is not None and self.flights.clock() >= deadline:
                raise TimedOut("the call's deadline has passed while it shared an answer")
            if turn.acquire(False):  # noqa: FBT003 - half the price of the keyword, for each chunk
                self._pull(at)
            else:
                self._wait(at, deadline)
        return True

    def _wait(self, at: int, deadline: float | None) -> None:
        """Wait for the puller to get chunk *at*, at most until *deadline*."""
        gate = Lock()
        gate.acquire()
        self.waiting.append(gate)
        if at == len(self.log) and not self.over and self.turn.locked():
            left = TIMEOUT_MAX if deadline is None else self.time_left(deadline)
            gate.acquire(timeout=min(left, TIMEOUT_MAX))

    def _pull(self, at: int) -> None:
        """Get chunk *at*, or the whole answer, unless it arrived before this caller got the turn."""
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
        with suppress(IndexError):  # another thread is waking them too
            for _ in range(len(self.waiting)):
                self.waiting.pop(0).release()

    def stop(self) -> None:
        """Close the stream if nobody holds the turn; otherwise the puller does so after releasing it."""
        if self.waiting:
            self.wake()
        if self.chunks is not None and self.turn.acquire(blocking=False):  # and never release the turn
            self.context.run(self.chunks.close)
