"""What a router thinks of each target for one call, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmkit_plugins.plugins.router.case import Case
from llmkit_plugins.plugins.router.scoring import NEAR, Prediction, compare, predict, violation

COLUMNS = ("target", "latency", "nine in ten", "cost", "answered", "in flight", "score", "")


@dataclass(frozen=True, slots=True)
class Row:
    """One target, with what is predicted for the call there."""

    target: str
    prediction: Prediction
    in_flight: int
    score: float
    """How many times as bad as the best of all; 1 is the best."""
    notes: tuple[str, ...]
    """What else matters."""

    @property
    def cells(self) -> tuple[str, ...]:
        """For people, in the order of ``COLUMNS``."""
        predicted = self.prediction
        return (
            self.target,
            f"{predicted.seconds:.2f} s",
            f"{predicted.p90_seconds:.2f} s",
            "unknown" if predicted.cost is None else f"${predicted.cost:.6f}",
            f"{predicted.success:.1%}",
            str(self.in_flight),
            f"{self.score:.2f}" if self.score < 1e6 else "last",
            "; ".join(self.notes),
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """Every target for one call, best first; ``str`` renders it as a table. Computing it makes no decision and counts
    nothing."""

    mode: str
    """What the targets are ranked by."""
    input_tokens: float
    output_tokens: float
    """What the call is expected to take."""
    rows: tuple[Row, ...]

    @property
    def summary(self) -> str:
        """What the table is about, in a sentence."""
        return f"by {self.mode}, for {self.input_tokens:.0f} input and {self.output_tokens:.0f} output tokens"

    def __str__(self) -> str:
        lines = [COLUMNS, *[row.cells for row in self.rows]]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return "\n".join([self.summary, *table])


def explain(case: Case) -> Explanation:
    """Explain how each target of *case* ranks."""
    scores = compare(case)
    best = min(scores)
    places = sorted(range(len(scores)), key=scores.__getitem__)
    rows = tuple(_row(case, place, scores[place] / best) for place in places)
    return Explanation(case.goals.mode, case.input_tokens, case.output_tokens, rows)


def _row(case: Case, place: int, score: float) -> Row:
    track, target = case.tracks[place], case.targets[place]
    prediction = predict(case, place)
    return Row(target.name, prediction, track.in_flight, score, tuple(_notes(case, place, score)))


def _notes(case: Case, place: int, score: float) -> Sequence[str]:
    notes = []
    if case.tracks[place].away_until > case.now:
        notes.append(f"asked to be left alone for {case.tracks[place].away_until - case.now:.3g} s more")
    if case.goals.limited:
        missed = violation(case, place)
        notes.append(f"misses the objectives by {missed:.0%}" if missed else "meets the objectives")
    if case.goals.cost and case.prices[place] is None:
        notes.append("ranked last, as its price is unknown")
    if 1.0 < score <= NEAR:
        notes.append("about as good as the best")
    return notes
