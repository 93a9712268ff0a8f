"""Counters, gauges and histograms, plain: one thread writes at a time, exporters read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any, Generic, Literal, NamedTuple, TypeVar

Kind = Literal["counter", "gauge", "histogram"]
Relay = Callable[..., Any]
"""Told each amount as it comes, or each value of a histogram and how many times: for exporters that keep sums of their
own."""

OVERFLOW = "__overflow__"
"""The label of everything beyond the bound."""


class Exemplar(NamedTuple):
    """A trace that a value of a histogram comes from."""

    trace_id: str
    span_id: str
    unix_seconds: float


class Sum:
    """A counter, or a gauge."""

    __slots__ = ("relays", "value")

    def __init__(self, relays: tuple[Relay, ...] = ()) -> None:
        self.value = 0.0
        self.relays = relays

    def add(self, amount: float = 1.0) -> None:
        """Add *amount*, to a counter 0 or more."""
        self.value += amount
        if self.relays:
            for relay in self.relays:
                relay(amount)

    def set(self, value: float) -> None:
        """Be *value*."""
        change = value - self.value
        self.value = value
        for relay in self.relays:
            relay(change)


class Histogram:
    """How many values fell up to each of *bounds* (ascending), and their total."""

    __slots__ = ("bounds", "counts", "exemplars", "relays", "total")

    def __init__(self, bounds: tuple[float, ...], relays: tuple[Relay, ...] = ()) -> None:
        self.bounds, self.relays = bounds, relays
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, tuple[float, Exemplar]] = {}
        """By bucket, the last value that came with one."""

    def observe(self, value: float, exemplar: Exemplar | None = None, times: int = 1) -> None:
        """Count *value*, so many *times*; its bucket remembers the last *exemplar*."""
        place = bisect_left(self.bounds, value)
        self.counts[place] += times
        self.total += value * times
        if exemplar is not None:
            self.exemplars[place] = value, exemplar
        if self.relays:
            for relay in self.relays:
                relay(value, times)


Child = TypeVar("Child", bound="Sum | Histogram")


class Family(Generic[Child]):
    """One metric: a child for each combination of label values."""

    def __init__(
        self,
        name: str,
        kind: Kind,
        documentation: str,
        labels: tuple[str, ...] = (),
        bounds: tuple[float, ...] = (),
    ) -> None:
        self.name, self.kind, self.documentation = name, kind, documentation
        self.labels, self.bounds = labels, bounds
        self._children: dict[tuple[str, ...], Child] = {}
        self._relays: list[Callable[[tuple[str, ...]], Relay]] = []
        self._making = Lock()

    def of(self, *values: str) -> Child:
        """The child with these label values, made the first time somebody asks."""
        known = self._children.get(values)
        if known is not None:
            return known
        with self._making:
            if values not in self._children:
                self._children[values] = self._make(values)
            return self._children[values]

    def children(self) -> Iterable[tuple[tuple[str, ...], Child]]:
        """Every child with its label values, as of now."""
        with self._making:
            return list(self._children.items())

    def relay(self, to: Callable[[tuple[str, ...]], Relay]) -> None:
        """Tell each amount or value from now on to ``to(label values)`` as well."""
        with self._making:
            self._relays.append(to)
            for values, child in self._children.items():
                child.relays = (*child.relays, to(values))

    def _make(self, values: tuple[str, ...]) -> Child:
        relays = tuple(to(values) for to in self._relays)
        made: Any = Histogram(self.bounds, relays) if self.kind == "histogram" else Sum(relays)
        child: Child = made
        return child


class Children(dict[str, Child], Generic[Child]):
    """The children of *family* whose first labels are *values*, by the last one."""

    def __init__(self, family: Family[Child], *values: str) -> None:
        self._family: Family[Child] = family
        self._values = values

    def __missing__(self, last: str) -> Child:
        child: Child = self._family.of(*self._values, last)
        self[last] = child
        return child


class Bounded:
    """The label values seen so far, at most *limit* combinations; whatever comes later overflows."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[tuple[str, ...]] = set()
        self._admitting = Lock()

    def admit(self, *values: str) -> tuple[str, ...]:
        """*values*, or as many overflow labels."""
        if values in self._known:
            return values
        with self._admitting:
            if len(self._known) >= self._limit:
                return (OVERFLOW,) * len(values)
            self._known.add(values)
        return values
