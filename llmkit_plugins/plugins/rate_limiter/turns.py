"""Whose turn it is: first come, first served, though nobody's moment is stored."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

LOOK_AGAIN_SECONDS = 0.25
"""How long a waiter sleeps at most before it looks whether its turn comes earlier, because others gave something
back."""
_SHORTEST_NAP_SECONDS = 0.005


def next_look(waited: float) -> float:
    """How long one sleeps who has *waited* so long for what comes back at a time that nobody knows."""
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
        """The state it was last told to wait for, and the debts that others have turned out to have since."""
        return self._lowest + self.line.debts

    def state(self, tail: float) -> float:
        """The state the bucket would be in if nobody had come after this place, where *tail* is the state it is in.

        What others give back moves everybody behind them up; nobody who comes later, even one who does not have to
        wait because those before him have not looked yet that it is their turn, pushes anybody back.
        """
        self._lowest = min(self._lowest, tail - (self.line.length - self.position) - self.line.debts)
        return self.promised

    def leave(self, *, given_back: bool = False) -> None:
        """Go: it is this one's turn; or, with *given_back*, it gave its place up, and those behind move up."""
        places = self.line.places
        if self not in places:
            return
        if given_back:
            self.line.length -= self.step
            for other in takewhile(lambda place: place is not self, reversed(places)):
                other.position -= self.step
        del places[self]


class Line:
    """Those who have taken from a bucket what is not there yet, in order.

    Each of them has already been charged, so the end of the line is the state of the bucket itself, and a place is
    told by what was charged behind it. Whoever gives something back (a refund, a settled estimate) lowers that state,
    and thereby moves the whole line up, at no cost and without knowing of it. Not safe against threads: hold a lock.

    For example, a bucket of one token a second is empty when A, B and C come. To charge them moves the moment when it
    will be full from 1 s ahead to 2, 3 and 4. When it is 4 s ahead, two seconds' worth were charged behind A: so A sees
    a bucket that is full in 4 - 2 = 2 s, holding a token in 1 s, and waits for that. A gives up and its second is given
    back: the moment is 3 s ahead, B has one second behind it, sees 2 and waits for 1 s, as A did.
    """

    __slots__ = ("debts", "length", "places")

    def __init__(self) -> None:
        self.length = 0.0
        """What all who joined were charged."""
        self.debts = 0.0
        """What those before them have used more than expected."""
        self.places: dict[Place, None] = {}

    def join(self, step: float, owner: Any = None) -> Place:
        """The last place, for one who was charged *step*."""
        self.length += step
        place = Place(self, step, owner)
        self.places[place] = None
        return place

    def first(self) -> Place | None:
        """Who has waited longest."""
        return next(iter(self.places), None)
