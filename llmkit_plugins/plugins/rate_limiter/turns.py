"""Whose turn it is: first come, first served, without storing anyone's start time."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

LOOK_AGAIN_SECONDS = 0.25
"""The longest a waiter sleeps before checking whether its turn now comes earlier, because something was given
back."""
_SHORTEST_NAP_SECONDS = 0.005


def next_look(waited: float) -> float:
    """How long to sleep after having *waited* that many seconds for something that comes back at an unknown time."""
    return min(max(_SHORTEST_NAP_SECONDS, waited / 8), LOOK_AGAIN_SECONDS)


class Place:
    """One waiter's place in a line."""

    __slots__ = ("_lowest", "line", "owner", "position", "step")

    def __init__(self, line: Line, step: float, owner: Any) -> None:
        self.line, self.step, self.owner = line, step, owner
        self.position = line.length
        self._lowest = float("inf")

    @property
    def promised(self) -> float:
        """The state it was last told to wait for, plus the debts that others have incurred since."""
        return self._lowest + self.line.debts

    def state(self, tail: float) -> float:
        """The state the bucket would be in if nobody had come after this place, given its actual state *tail*.

        What others give back moves everybody behind them up. Nobody who comes later pushes anybody back, not even one
        that need not wait because earlier waiters have not yet noticed that it is their turn.
        """
        self._lowest = min(self._lowest, tail - (self.line.length - self.position) - self.line.debts)
        return self.promised

    def leave(self, *, given_back: bool = False) -> None:
        """Leave because it is its turn or, with *given_back*, because it gave up, so that those behind move up."""
        places = self.line.places
        if self not in places:
            return
        if given_back:
            self.line.length -= self.step
            for other in takewhile(lambda place: place is not self, reversed(places)):
                other.position -= self.step
        del places[self]


class Line:
    """The waiters that have taken from a bucket what is not there yet, in order.

    Each has already been charged, so the end of the line is the bucket's own state, and a place is defined by what was
    charged behind it. Giving something back (a refund, a settled estimate) lowers that state and so moves the whole
    line up, at no cost and without touching the line. Not thread-safe: hold a lock.

    For example, a bucket of one token a second is empty when A, B and C arrive. Charging them moves the time when it
    will be full from 1 s ahead to 2, 3 and 4. At 4 s ahead, two seconds' worth were charged behind A, so A sees a
    bucket that is full in 4 - 2 = 2 s and holds a token in 1 s, and waits for that. If A gives up and its second is
    given back, the time is 3 s ahead; B has one second behind it, sees 2 s, and waits 1 s, as A did.
    """

    __slots__ = ("debts", "length", "places")

    def __init__(self) -> None:
        self.length = 0.0
        """The total charged to all that joined."""
        self.debts = 0.0
        """How much more than expected earlier calls have used."""
        self.places: dict[Place, None] = {}

    def join(self, step: float, owner: Any = None) -> Place:
        """Add a place at the end, for a waiter that was charged *step*."""
        self.length += step
        place = Place(self, step, owner)
        self.places[place] = None
        return place

    def first(self) -> Place | None:
        """The place that has waited longest."""
        return next(iter(self.places), None)
