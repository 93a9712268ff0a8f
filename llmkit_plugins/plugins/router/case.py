"""One call that is to be routed: what it is expected to take, what it strives for, and where it could go."""

from __future__ import annotations

from collections.abc import Sequence

from llmkit_plugins.call import Call, Target
from llmkit_plugins.plugins.router.goals import Goals
from llmkit_plugins.plugins.router.habits import Habit
from llmkit_plugins.plugins.router.lineup import Lineup, Price
from llmkit_plugins.plugins.router.track import Track
from llmkit_plugins.tokens import max_output_tokens, measured_prompt


class Case:
    """A call, and where it could go. What is costly is found out when asked.

    (There is no ``__init__``: who makes one sets what there is, in half of the time.)
    """

    __slots__ = ("any_last", "call", "goals", "habit", "lineup", "measured", "money", "now",
                 "output_tokens", "prices", "prompt", "scores", "targets", "tracks")  # fmt: skip

    call: Call
    goals: Goals
    targets: Sequence[Target]
    """As they were given."""
    lineup: Lineup
    tracks: Sequence[Track]
    """What is known of each of them."""
    habit: Habit
    now: float
    money: float
    """The exponent of USD: that of the goals, or 0 where all targets cost the same."""
    any_last: bool
    """Whether there may be targets that come last: they miss the objectives, or asked to be left alone."""
    output_tokens: float
    measured: float | None
    """Tokens of its prompt, once somebody asked."""
    prompt: float
    """By how many times the usual length its prompt is longer."""
    prices: Sequence[Price | None]
    """Of the targets, with what their caches should save."""
    scores: list[float] | None
    """Of the targets, once all of them were compared."""

    @property
    def input_tokens(self) -> float:
        """Tokens of the prompt."""
        if self.measured is None:
            self.measured = measured_prompt(self.call) * self.habit.tokens_per_char
        return self.measured

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
    return habit.output_tokens if bound is None or bound > habit.output_tokens else bound
