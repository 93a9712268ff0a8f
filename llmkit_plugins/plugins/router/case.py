"""One call that is to be routed: what it is expected to take, what it strives for, and where it could go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from llmkit_plugins.call import Call, Target
from llmkit_plugins.plugins.router.goals import Goals
from llmkit_plugins.plugins.router.habits import Habit
from llmkit_plugins.plugins.router.track import Track
from llmkit_plugins.tokens import max_output_tokens, measured_prompt


class Case:
    """A call, and the *targets* it could go to with what is known of each. What is costly is found out when asked."""

    __slots__ = ("_input_tokens", "cached_at", "call", "goals", "habit", "now", "output_tokens", "prompt",
                 "score", "scores", "targets", "tracks", "weights")  # fmt: skip

    def __init__(
        self,
        call: Call,
        goals: Goals,
        score: Score,
        targets: Sequence[Target],
        tracks: Sequence[Track],
        weights: Sequence[float] | None,
        habit: Habit,
        now: float,
    ) -> None:
        self.call, self.habit = call, habit
        self.weights = weights
        """Of the targets; None where all have the same."""
        self.goals, self.score, self.targets, self.tracks, self.now = goals, score, targets, tracks, now
        self.output_tokens = expected_tokens(call, habit) if call.params else habit.output_tokens
        self.prompt = 0.0
        """By how many times the usual length its prompt is longer."""
        self.cached_at: Collection[str] = ()
        """Names of the targets whose cache should know how its prompt begins."""
        self.scores: list[float] | None = None
        """Of the targets, once all of them were compared."""
        self._input_tokens: float | None = None

    @property
    def input_tokens(self) -> float:
        """Tokens of the prompt."""
        if self._input_tokens is None:
            self._input_tokens = measured_prompt(self.call) * self.habit.tokens_per_char
        return self._input_tokens

    def seconds(self, place: int) -> float:
        """Predicted for an answer of the target in that *place*, beside what is in flight there now."""
        latency = self.tracks[place].latency
        first = latency.first_now
        if self.prompt:
            first *= 1.0 + latency.prompt_share * self.prompt
        return first + self.output_tokens * latency.token_now

    def compare(self) -> list[float]:
        """The scores of all targets, in their order."""
        self.scores = scores = self.score(self)
        return scores


Score = Callable[[Case], list[float]]
"""How good each target of a case is for it: the lower the better, above 0, finite whatever was learned."""


def expected_tokens(call: Call, habit: Habit) -> float:
    """How long the answer to *call* will be: as usual, or as long as it may be."""
    bound = max_output_tokens(call.params)
    return habit.output_tokens if bound is None or bound > habit.output_tokens else max(bound, 0.0)
