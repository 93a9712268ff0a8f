"""What LangChain has under way for a kit, by run id."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from llmkit_plugins import Handle, LLMKit

MARK = "llmkit_kit"
"""The metadata key naming the kit that made a run itself: a handler of the same kit ignores that run."""


def mark_of(kit: LLMKit) -> str:
    """The value of :data:`MARK` for *kit*, for its lifetime."""
    return f"{id(kit):x}"


class Runs:
    """The open handles by run id. Several handlers of one kit may report the same run: it is one call."""

    def __init__(self) -> None:
        self._handles: dict[UUID, Handle | None] = {}
        self._watched: dict[UUID, tuple[asyncio.Task[Any], Callable[[Any], None]]] = {}

    def claim(self, run_id: UUID) -> bool:
        """Whether *run_id* is new. The claimant opens it, or closes it if it was refused."""
        if run_id in self._handles:
            return False
        self._handles[run_id] = None
        return True

    def open(self, run_id: UUID, handle: Handle) -> None:
        """Report *run_id* through *handle* from now on."""
        self._handles[run_id] = handle
        if asyncio._get_running_loop() is not None:  # noqa: SLF001 - to be told by an error takes eight times as long
            self._watch(run_id)
        self._forget_ended()

    def get(self, run_id: UUID) -> Handle | None:
        """The handle of *run_id*; None for a run not counted here."""
        return self._handles.get(run_id)

    def close(self, run_id: UUID) -> Handle | None:
        """Remove and return the handle of *run_id*."""
        if (watched := self._watched.pop(run_id, None)) is not None:
            task, left = watched
            task.remove_done_callback(left)
        return self._handles.pop(run_id, None)

    def __len__(self) -> int:
        return len(self._handles)

    def _watch(self, run_id: UUID) -> None:
        """End *run_id* if the task that began it is cancelled: for an ``ainvoke`` LangChain does not report that.

        Other ends of the task mean nothing, as another task may go on reading a stream.
        """
        task = asyncio.current_task()
        if task is None:
            return

        def left(task: asyncio.Task[Any]) -> None:
            self._watched.pop(run_id, None)
            if task.cancelled() and (handle := self.close(run_id)) is not None:
                handle.cancel()

        task.add_done_callback(left)
        self._watched[run_id] = task, left

    def _forget_ended(self) -> None:
        """Drop the oldest runs that were ended by their lease: LangChain does not report the end of every run."""
        while len(self._handles) > 1:  # the youngest is being reported right now
            try:
                oldest, handle = next(iter(self._handles.items()))
            except (StopIteration, RuntimeError):  # another thread opened or closed one in the meantime
                return
            if handle is None or handle.call.outcome is None:
                return
            self.close(oldest)


_by_kit: WeakKeyDictionary[LLMKit, Runs] = WeakKeyDictionary()


def runs_of(kit: LLMKit) -> Runs:
    """The runs under way for *kit*, whichever handler reports them."""
    return _by_kit.setdefault(kit, Runs())
