"""Counters, gauges and histograms. A call only appends amounts and values, without a lock."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from llmkit_plugins.forks import new_lock, new_rlock
from llmkit_plugins.plugins.observability.text import writable

Kind = Literal["counter", "gauge", "histogram"]
Relay = Callable[..., Any]
"""Called in the call's thread with each amount, or with each value (and how many times, if not once): for exporters
that keep their own sums."""

OVERFLOW = "__overflow__"
"""The label value of everything beyond the limit."""


class Exemplar(NamedTuple):
    """A trace that a value of a histogram comes from."""

    trace_id: str
    span_id: str
    unix_seconds: float


_adding_up = new_rlock()


class Instrument:
    """Additions are only noted, in any thread, and summed by the reader."""

    __slots__ = ("_relays", "add", "noted")

    add: Callable[[float], Any]
    """Add an amount, or a value."""
    noted: list[float]
    """Additions not yet summed."""

    def __init__(self, relays: Iterable[Relay] = ()) -> None:
        self.noted = []
        self._relays: tuple[Relay, ...] = ()
        self.add = self.noted.append  # atomic, and half the cost of a method
        for relay in relays:
            self.relay(relay)

    def relay(self, to: Relay) -> None:
        """Also pass to *to* whatever is added from now on."""
        self._relays = (*self._relays, to)
        self.add = self._add_and_tell

    def _add_and_tell(self, amount: float) -> None:
        self.noted.append(amount)
        for relay in self._relays:
            relay(amount)


class Sum(Instrument):
    """A counter, to which 0 or more is added, or a gauge."""

    __slots__ = ("_value",)

    def __init__(self, relays: Iterable[Relay] = ()) -> None:
        super().__init__(relays)
        self._value = 0.0

    @property
    def value(self) -> float:
        """The total added, or the value set."""
        self.settle()
        return self._value

    def settle(self) -> None:
        """Add up what was noted."""
        with _adding_up:
            amounts = _taken(self.noted)
            try:
                self._value += sum(amounts)
            except TypeError:  # a token count from outside was once not a number
                self._value += sum(amount for amount in amounts if isinstance(amount, int | float))

    def set(self, value: float) -> None:
        """Set it to *value*."""
        with _adding_up:
            change = value - self.value
            self._value = value
        for relay in self._relays:
            relay(change)


class Histogram(Instrument):
    """How many values lie below each of *bounds* (ascending, inclusive), and their total."""

    __slots__ = ("_counts", "_exemplars", "_many", "_total", "bounds")

    def __init__(self, bounds: tuple[float, ...], relays: Iterable[Relay] = ()) -> None:
        super().__init__(relays)
        self.bounds = bounds
        self._many: list[tuple[float, int]] = []
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._exemplars: dict[int, tuple[float, Exemplar]] = {}

    def add_many(self, value: float, times: int) -> None:
        """Add *value* *times* times."""
        self._many.append((value, times))
        for relay in self._relays:
            relay(value, times)

    def remember(self, value: float, exemplar: Exemplar) -> None:
        """Remember, in the bucket of *value*, which was added, where it came from."""
        self._exemplars[bisect_left(self.bounds, value)] = value, exemplar

    @property
    def counts(self) -> list[int]:
        """How many values fell into each bucket; the last one is beyond all bounds."""
        self.settle()
        return list(self._counts)

    @property
    def total(self) -> float:
        """The sum of all values."""
        self.settle()
        return self._total

    @property
    def exemplars(self) -> dict[int, tuple[float, Exemplar]]:
        """By bucket, the last value that came with an exemplar."""
        return dict(self._exemplars)

    def settle(self) -> None:
        """Sum what was noted: sorted, many take a third of the time they take one by one."""
        with _adding_up:
            values, counts, begin = sorted(_taken(self.noted)), self._counts, 0
            if values:
                self._total += sum(values)
                for place, bound in enumerate(self.bounds):
                    end = bisect_right(values, bound, begin)
                    counts[place] += end - begin
                    begin = end
                counts[-1] += len(values) - begin
            for value, times in _taken(self._many):
                counts[bisect_left(self.bounds, value)] += times
                self._total += value * times


def _taken(noted: list[Any]) -> list[Any]:
    """What was *noted* so far; others may be noting more."""
    taken = noted[:]
    del noted[: len(taken)]
    return taken


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
        self._making = new_lock()

    def of(self, *values: str) -> Child:
        """The child with these label values, created on first use."""
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

    def settle(self) -> None:
        """Add up what was noted."""
        for _, child in self.children():
            child.settle()

    def relay(self, to: Callable[[tuple[str, ...]], Relay]) -> None:
        """Also pass each amount or value from now on to ``to(label values)``."""
        with self._making:
            self._relays.append(to)
            for values, child in self._children.items():
                child.relay(to(values))

    def _make(self, values: tuple[str, ...]) -> Child:
        relays = [to(values) for to in self._relays]
        made: Any = Histogram(self.bounds, relays) if self.kind == "histogram" else Sum(relays)
        child: Child = made
        return child


def counter(name: str, documentation: str, *labels: str) -> Family[Sum]:
    """A metric that only rises."""
    return Family(name, "counter", documentation, labels)


def gauge(name: str, documentation: str, *labels: str) -> Family[Sum]:
    """A metric that rises and falls."""
    return Family(name, "gauge", documentation, labels)


def histogram(name: str, documentation: str, bounds: tuple[float, ...], *labels: str) -> Family[Histogram]:
    """A metric of how many values lie below each of *bounds*, inclusive."""
    return Family(name, "histogram", documentation, labels, bounds)


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
    """The label values seen so far, at most *limit* combinations; later ones overflow.

    A value that cannot be encoded is replaced: it would break all of ``/metrics``.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[tuple[str, ...]] = set()
        self._admitting = new_lock()

    def admit(self, *values: str) -> tuple[str, ...]:
        """*values*, or as many overflow labels."""
        if values in self._known:
            return values
        values = tuple([writable(value) for value in values])
        with self._admitting:
            if values in self._known:
                return values
            if len(self._known) >= self._limit:
                return (OVERFLOW,) * len(values)
            self._known.add(values)
        return values
