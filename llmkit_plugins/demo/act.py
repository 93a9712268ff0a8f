"""What an act is, and what it has to tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from llmkit_plugins.demo.scene import Scene

Step = Callable[[int, int], None]
"""Told how many of how many requests are done."""


@dataclass(frozen=True)
class Outcome:
    """How an act ended: whether as it should, and a sentence for people."""

    good: bool
    told: str
    figures: Sequence[Sequence[str]] = ()
    """A table, its heading first."""


@dataclass(frozen=True)
class Act:
    """One thing shown."""

    title: str
    play: Callable[[Scene, Step, int], Awaitable[Outcome]]
