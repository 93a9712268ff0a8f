"""One call that is to be routed: what it is expected to take, what it strives for, and where it could go."""

from __future__ import annotations

from collections.abc import Collection

from llmkit_plugins.call import Call
from llmkit_plugins.plugins.router.goals import Goals
from llmkit_plugins.plugins.router.habits import Habit
from llmkit_plugins.plugins.router.lineup import Lineup
from llmkit_plugins.tokens import max_output_tokens, measured_prompt


class Case:
    """A call, and where it could go: a *lineup*. What is costly is found out when asked."""

    __slots__ = ("_input_tokens", "any_last", "cached_at", "call", "goals", "habit", "lineup", "now", "output_tokens",
                 "prompt", "scores", "targets", "tracks")  # fmt: skip

    def __init__(self, call: Call, goals: Goals, lineup: Lineup, habit: Habit, now: float, *, any_last: bool) -> None:
        self.call, self.goals, self.habit, self.now = call, goals, habit, now
        self.lineup, self.targets, self.tracks = lineup, lineup.targets, lineup.tracks
        self.any_last = any_last
        """Whether there may be targets that come last: they miss the objectives, or asked to be left alone."""
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

    @property
    def money(self) -> float:
        """The exponent of USD: that of the goals, or 0 where all targets cost the same."""
        return 0.0 if self.lineup.alike and not self.cached_at else self.goals.cost

    def seconds(self, place: int) -> float:
        """Predicted for an answer of the target in that *place*, beside what is in flight there now."""
        latency = self.tracks[place].latency
        first = latency.first_now
        if self.prompt:
            first *= 1.0 + latency.prompt_share * self.prompt
        return first + self.output_tokens * latency.token_now


def expected_tokens(call: Call, habit: Habit) -> float:
    """How long the answer to *call* will be: as usual, or as long as it may be."""
    bound = max_output_tokens(call.params)
    return habit.output_tokens if bound is None or bound > habit.output_tokens else max(bound, 0.0)
