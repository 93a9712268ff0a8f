"""What LangChain has under way for a kit, by run id."""

from __future__ import annotations

from uuid import UUID
from weakref import WeakKeyDictionary

from llmkit_plugins import Handle, LLMKit

MARK = "llmkit_kit"
"""The metadata of a run that a kit itself makes says which: a handler of the same kit leaves it alone."""


def mark_of(kit: LLMKit) -> str:
    """What stands under :data:`MARK` for *kit*, as long as it lives."""
    return f"{id(kit):x}"


class Runs:
    """The open handles by run id. Several handlers of one kit may tell of the same run: it is one call."""

    def __init__(self) -> None:
        self._handles: dict[UUID, Handle | None] = {}

    def claim(self, run_id: UUID) -> bool:
        """Whether *run_id* is news. Who claims it opens it, or closes it where it was refused."""
        if run_id in self._handles:
            return False
        self._handles[run_id] = None
        return True

    def open(self, run_id: UUID, handle: Handle) -> None:
        """*run_id* is told of through *handle* from now on."""
        self._handles[run_id] = handle
        self._forget_ended()

    def get(self, run_id: UUID) -> Handle | None:
        """The handle of *run_id*; None for a run that is not counted here."""
        return self._handles.get(run_id)

    def close(self, run_id: UUID) -> Handle | None:
        """The handle of *run_id*, for the last time."""
        return self._handles.pop(run_id, None)

    def __len__(self) -> int:
        return len(self._handles)

    def _forget_ended(self) -> None:
        """Drop the oldest runs whose lease has ended them: LangChain does not tell the end of every run."""
        while len(self._handles) > 1:  # the youngest is told of right now
            try:
                oldest, handle = next(iter(self._handles.items()))
            except (StopIteration, RuntimeError):  # another thread opened or closed one meanwhile
                return
            if handle is None or handle.call.outcome is None:
                return
            self.close(oldest)


_by_kit: WeakKeyDictionary[LLMKit, Runs] = WeakKeyDictionary()


def runs_of(kit: LLMKit) -> Runs:
    """What is under way for *kit*, whoever tells of it."""
    return _by_kit.setdefault(kit, Runs())
