"""An act of the demo, and its outcome."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from llmkit_plugins.demo.scene import Scene

Step = Callable[[int, int], None]
"""Called with the number of requests done, and the total."""


@dataclass(frozen=True)
class Outcome:
    """How an act ended: whether it went as it should, and a sentence that says so."""

    good: bool
    told: str
    figures: Sequence[Sequence[str]] = ()
    """A table, heading first."""


@dataclass(frozen=True)
class Act:
    """One thing the demo shows."""

    title: str
    play: Callable[[Scene, Step, int], Awaitable[Outcome]]
