"""What plugins tell each other outside the hooks: events in one plugin that another may want to count or log.

The classes below are the events that the plugins of this package publish; to add your own, define a class. Publishing
without a listener costs a dictionary look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from llmkit_plugins.call import Call, Target

E = TypeVar("E")


@dataclass(slots=True, frozen=True)
class LimitReached:
    """A limit was exhausted when *call* arrived."""

    call: Call
    limit: str
    """The limit's name."""
    action: Literal["refused", "waited", "passed"]
    """What happened to the call; ``passed`` if the limit only counts."""
    seconds: float
    """How long it waits, or would have had to; infinite if it can never be admitted."""


@dataclass(slots=True, frozen=True)
class StoreUnreachable:
    """The store that processes share could not be reached: *call* proceeds with local knowledge."""

    call: Call
    place: str
    """The location of the store."""


@dataclass(slots=True, frozen=True)
class CircuitChanged:
    """A circuit went from one state to another."""

    target: str
    before: str
    after: str
    """``closed``, ``open`` or ``half_open``."""
    why: str
    """The statistic, its value and the threshold."""


@dataclass(slots=True, frozen=True)
class CircuitsExhausted:
    """Too few of the circuits that *call* could use let it pass: those that close soonest are used all the same."""

    call: Call
    targets: tuple[str, ...]
    """Of these."""


class Routed(NamedTuple):
    """A router put *target* first for the next attempt of *call*."""

    call: Call
    target: Target
    reason: str
    """Why, in a word or two of a small vocabulary: it becomes a label."""
    predicted_seconds: float | None = None
    """How long the attempt will take, from sending to its end; None if unknown."""
    cost: Callable[[], float | None] | None = None
    """Computes ``predicted_cost``, on demand because the prompt has to be measured for it."""

    @property
    def predicted_cost(self) -> float | None:
        """What it will cost in USD; None if a price is unknown."""
        return None if self.cost is None else self.cost()


class Events:
    """Listeners by kind of event. They are called immediately, in the publishing thread, and must not block."""

    def __init__(self, report: Callable[[str, Exception], Any]) -> None:
        self._report = report
        self._listeners: dict[type, tuple[Callable[[Any], None], ...]] = {}

    def subscribe(self, kind: type[E], listener: Callable[[E], None]) -> None:
        """Call *listener* with each event that is exactly a *kind*."""
        self._listeners = {**self._listeners, kind: (*self._listeners.get(kind, ()), listener)}

    def unsubscribe(self, kind: type[E], listener: Callable[[E], None]) -> None:
        """Stop calling *listener*."""
        left = tuple(other for other in self._listeners.get(kind, ()) if other != listener)
        self._listeners = {**self._listeners, kind: left}

    def wanted(self, kind: type) -> bool:
        """Whether anybody listens; ask first if an event is costly to create."""
        return bool(self._listeners.get(kind))

    def publish(self, event: object) -> None:
        """Call the listeners for *event*; a listener's bug is logged and counted, and affects nothing else."""
        for listener in self._listeners.get(type(event), ()):
            try:
                listener(event)
            except Exception as bug:
                self._report(f"{type(event).__name__} listener {getattr(listener, '__qualname__', listener)!s}", bug)
