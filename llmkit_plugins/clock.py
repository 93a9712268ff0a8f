"""Where time comes from: a clock is a function that returns seconds and never goes backwards.

Algorithms only read it. The drivers also sleep; a clock that brings ``sleep`` of its own (the manual clock of the tests
does) is slept with, so that no test waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
Sleep = Callable[[float], None]

SYSTEM_CLOCK: Clock = time.monotonic


def sleep_of(clock: Clock) -> Sleep:
    """How to let time pass on *clock*: its own ``sleep``, else that of the system."""
    sleep: Sleep = getattr(clock, "sleep", time.sleep)
    return sleep
