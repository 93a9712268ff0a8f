"""Where time comes from: a clock is a function that returns seconds and never goes backwards.

Algorithms only read it. The drivers also sleep, using the clock's own ``sleep`` if it has one (as the tests' manual
clock does), so that no test waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
Sleep = Callable[[float], None]

SYSTEM_CLOCK: Clock = time.monotonic


def sleep_of(clock: Clock) -> Sleep:
    """How to sleep on *clock*: its own ``sleep`` if it has one, else the system's."""
    sleep: Sleep = getattr(clock, "sleep", time.sleep)
    return sleep
