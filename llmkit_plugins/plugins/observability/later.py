"""Work that takes too long for a call: noted on its path, done when somebody reads."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from llmkit_plugins.forks import new_rlock

log = logging.getLogger("llmkit")

NOTES = 16_384
"""How many notes may wait (some 5 MB); beyond that, each new one causes an old one or two to be written."""


class Later:
    """Notes: functions to be called with facts, in order, by one thread at a time.

    So what they write to needs no lock. *notes* limits how many wait; with 0 each is written at once.
    """

    def __init__(self, notes: int = NOTES) -> None:
        self._notes = notes
        self._waiting: deque[tuple[Any, ...]] = deque()
        self._writing = new_rlock()  # the garbage collector may note something while it is held
        self._failed = False

    def note(self, *note: Any) -> None:
        """``note(write, *facts)``: have ``write(*facts)`` called when somebody reads. (One tuple: two would make the
        garbage collector's work double.)"""
        waiting = self._waiting
        waiting.append(note)
        if len(waiting) > self._notes:
            self.settle(2)

    def settle(self, at_most: int | None = None) -> None:
        """Write what waits (the oldest *at_most*)."""
        with self._writing:
            for _ in range(len(self._waiting) if at_most is None else min(at_most, len(self._waiting))):
                write, *facts = self._waiting.popleft()
                try:
                    write(*facts)
                except Exception:
                    if not self._failed:
                        log.exception("metrics could not be written; this is logged the first time only")
                    self._failed = True
