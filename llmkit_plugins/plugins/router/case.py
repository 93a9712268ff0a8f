"""One call to route: what it is expected to take, what its goals are, and where it could go."""

from __future__ import annotations

from collections.abc import Sequence

from llmkit_plugins.call import Call, Target
from llmkit_plugins.plugins.router.goals import Goals
from llmkit_plugins.plugins.router.habits import Habit
from llmkit_plugins.plugins.router.lineup import Lineup, Price
from llmkit_plugins.plugins.router.track import Track
from llmkit_plugins.tokens import max_output_tokens, measured_prompt


class Case:
    """A call, and where it could go. Costly values are computed on demand.

    (There is no ``__init__``: the creator sets the attributes, which takes half the time.)
    """

    __slots__ = ("any_last", "call", "goals", "habit", "lineup", "measured", "money", "now",
                 "output_tokens", "prices", "prompt", "scores", "targets", "tracks")  # fmt: skip

    call: Call
    goals: Goals
    targets: Sequence[Target]
    """In the given order."""
    lineup: Lineup
    tracks: Sequence[Track]
    """What is known of each target."""
    habit: Habit
    now: float
    money: float
    """The exponent of USD: that of the goals, or 0 if all targets cost the same."""
    any_last: bool
    """Whether some targets may rank last: they miss the objectives, or asked to be left alone."""
    output_tokens: float
    measured: float | None
    """Tokens in its prompt, once computed."""
    prompt: float
    """How far its prompt exceeds the usual length, in multiples of that length."""
    prices: Sequence[Price | None]
    """Of the targets, less what their caches should save."""
    scores: list[float] | None
    """Of the targets, once all were compared."""

    @property
    def input_tokens(self) -> float:
        """Tokens of the prompt."""
        if self.measured is None:
            self.measured = measured_prompt(self.call) * self.habit.tokens_per_char
        return self.measured

    def seconds(self, place: int) -> float:
        """Predicted for an answer from the target in that *place*, given what is in flight there now."""
        latency = self.tracks[place].latency
        first = latency.first_now
        if self.prompt:
            first *= 1.0 + latency.prompt_share * self.prompt
        return first + self.output_tokens * latency.token_now


def expected_tokens(call: Call, habit: Habit) -> float:
    """How long the answer to *call* will be: the usual length, or its limit if that is shorter."""
    bound = max_output_tokens(call.params)
    return habit.output_tokens if bound is None or bound > habit.output_tokens else bound
