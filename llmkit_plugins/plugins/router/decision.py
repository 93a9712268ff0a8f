"""Where one call goes, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from llmkit_plugins.call import Call, Target
from llmkit_plugins.plugins.router.case import Case
from llmkit_plugins.plugins.router.scoring import AWAY, VIOLATING, cost, violation

Why = Literal["best", "near_equal", "affinity", "probe", "two_choices", "compromise", "away"]

WHY: Mapping[Why, str] = {
    "best": "the best by {mode}",
    "near_equal": "about as good by {mode} as the best: by weight, chance and what is in flight",
    "affinity": "calls that begin like this go there, so that its cache knows the prompt",
    "probe": "not the best by {mode}, but it may have become so: it is tried",
    "two_choices": "by {mode} the better of the next in turn and the last winner",
    "compromise": "no target meets the objectives, and it misses them by least",
    "away": "every target asked to be left alone, and it is the first to be back",
}

_PAIR = 2

new = object.__new__


class Judge(Protocol):
    """What made the decision."""

    def case(self, call: Call, targets: Sequence[Target]) -> Case:
        """Everything known about a *call* that can go to *targets*."""


class Decision:
    """Where a call goes: ``target``, then ``fallbacks``; ``why`` in a word, ``reasons`` in sentences.

    What is rarely needed is computed on demand, unless it was needed to decide. (There is no ``__init__``: it would
    take 0.1 µs of the 0.6 that a decision may take.)
    """

    __slots__ = ("call", "case", "judge", "place", "predicted_seconds", "target", "targets", "why")

    target: Target
    """Where it should go."""
    why: Why
    predicted_seconds: float
    """Until the answer is complete."""
    targets: Sequence[Target]
    """What it was chosen from."""
    place: int
    """Its own among them."""
    case: Case | None
    """The call as it was known; None where that was not needed to decide, and there are instead:"""
    call: Call
    judge: Judge

    @property
    def predicted_latency_ms(self) -> float:
        """Milliseconds until the answer is complete."""
        return self.predicted_seconds * 1e3

    @property
    def predicted_cost(self) -> float | None:
        """USD; None where a price is unknown."""
        return cost(self._known, self.place)

    @property
    def order(self) -> tuple[Target, ...]:
        """All targets, best first, ties in the given order; those not compared follow in turn."""
        targets, place, case = self.targets, self.place, self.case
        if len(targets) > _PAIR and case is not None and case.scores is not None:
            places = sorted(range(len(targets)), key=case.scores.__getitem__)
            places.remove(place)
            return (self.target, *[targets[other] for other in places])
        return tuple(targets[place:]) + tuple(targets[:place]) if place else tuple(targets)

    @property
    def fallbacks(self) -> tuple[Target, ...]:
        """Where to go if that fails, in order."""
        return self.order[1:]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why there, and what else is worth knowing."""
        return (WHY[self.why].format(mode=self._known.goals.mode), *self._objectives(), *self._unknown_prices())

    @property
    def _known(self) -> Case:
        if self.case is None:
            self.case = self.judge.case(self.call, self.targets)
        return self.case

    def _objectives(self) -> list[str]:
        case, place = self._known, self.place
        if not case.goals.limited:
            return []
        missed = violation(case, place)
        return [f"misses the objectives by {missed:.0%}" if missed else "meets the objectives"]

    def _unknown_prices(self) -> list[str]:
        case = self._known
        unpriced = [target.name for target, price in zip(case.targets, case.prices, strict=True) if price is None]
        if not case.goals.cost or not unpriced:
            return []
        return [f"ranked last, as their price is unknown: {', '.join(unpriced)}"]


def decide(case: Case, place: int, why: Why) -> Decision:
    """The decision to send the call of *case* to the target in that *place*."""
    decision = new(Decision)
    decision.target, decision.why, decision.predicted_seconds = case.targets[place], why, case.seconds(place)
    decision.targets, decision.place, decision.case = case.targets, place, case
    return decision


def why_of(score: float) -> Why:
    """Why the best target, with that *score*, is chosen."""
    return "best" if score < VIOLATING else "compromise" if score < AWAY else "away"
