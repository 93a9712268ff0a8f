"""How many tokens calls take, learned from similar calls."""

from __future__ import annotations

from math import expm1, log

from llmkit_plugins.call import Call, Usage
from llmkit_plugins.forks import new_rlock
from llmkit_plugins.tokens import MEASURED

_TOKENS_PER_CHAR = 0.25
_PRIOR_CHARS = 2000.0
_HORIZON_CHARS = 1e6
_PRIOR_VARIANCE = 0.5
_SETTLING = 50
_LEAST_GAIN = 1.0 / _SETTLING
_OUTLIER = 6.0
_LEAST_TOKENS = 1e-3
_LONGEST_PROMPT = 8.0
_LARGEST_SURPRISE = 4.0
_MOST_KEYS = 10_000


class Habit:
    """What calls of one kind take: a running mean of output tokens, and tokens per character of the prompts.

    There is no lock: threads that learn concurrently may lose an answer, never more.
    """

    __slots__ = ("_answers", "_chars", "_tokens", "_variance", "output_tokens", "spread", "wider")

    def __init__(self, output_tokens: float, wider: Habit | None = None) -> None:
        self.output_tokens = output_tokens
        self._variance, self.spread = _PRIOR_VARIANCE, expm1(_PRIOR_VARIANCE)
        """The variance of the logarithm of the output tokens, and of the tokens relative to their mean."""
        self.wider = wider
        """The habit of a wider kind of calls, which learns from the first answers to these, then every eighth."""
        self._answers = 0
        self._chars = _PRIOR_CHARS
        self._tokens = _PRIOR_CHARS * (_TOKENS_PER_CHAR if wider is None else wider.tokens_per_char)

    @property
    def tokens_per_char(self) -> float:
        """Of the prompts."""
        return self._tokens / self._chars

    def learn(self, call: Call, usage: Usage) -> None:
        """Learn from *call*, which was answered and took *usage*."""
        self._answers = answers = self._answers + 1
        gain = 1.0 / (answers + 1) if answers < _SETTLING else _LEAST_GAIN
        mean = self.output_tokens
        tokens: float = usage.output_tokens
        if tokens > _OUTLIER * mean:
            tokens = _OUTLIER * mean
        self.output_tokens = mean + gain * (tokens - mean) + _LEAST_TOKENS
        if answers < 8 or not answers & 7:
            self._learn_more(call, usage, gain)

    def _learn_more(self, call: Call, usage: Usage, gain: float) -> None:
        surprise = log((usage.output_tokens + 1.0) / (self.output_tokens + 1.0))
        self._variance += gain * (min(surprise * surprise, _LARGEST_SURPRISE) - self._variance)
        self.spread = expm1(self._variance)
        if chars := call.state.get(MEASURED):
            self._chars += chars
            self._tokens += usage.input_tokens
            if self._chars > _HORIZON_CHARS:
                self._chars /= 2.0
                self._tokens /= 2.0
        if self.wider is not None:
            self.wider.learn(call, usage)


class Habits:
    """The habits of calls by model and user. A new user is expected to be like all users of the model, and a new model
    like all models. Beyond ten thousand, the oldest is forgotten."""

    def __init__(self, output_tokens: float) -> None:
        self.of_all = Habit(output_tokens)
        self.known: dict[tuple[str | None, str | None], Habit] = {}
        """By model and user."""
        self._lock = new_rlock()
        self._prompt_tokens = 0.0

    def of(self, call: Call) -> Habit:
        """The habit of calls like *call*."""
        return self.known.get((call.model, call.user)) or self._meet(call.model, call.user)

    def longer(self, input_tokens: float) -> float:
        """How far a prompt exceeds the usual length, in multiples of it."""
        usual = self._prompt_tokens
        return min(input_tokens / usual - 1.0, _LONGEST_PROMPT) if usual else 0.0

    def prompted(self, input_tokens: float) -> float:
        """Learn the length of a prompt. Returns how far it exceeds the usual length, in multiples of it."""
        usual = self._prompt_tokens
        self._prompt_tokens = usual + _LEAST_GAIN * (input_tokens - usual) if usual else input_tokens
        return self.longer(input_tokens) if input_tokens else 0.0

    def _meet(self, model: str | None, user: str | None) -> Habit:
        wider = self.of_all if user is None else self.known.get((model, None)) or self._meet(model, None)
        with self._lock:
            while len(self.known) >= _MOST_KEYS:
                del self.known[next(iter(self.known))]
            return self.known.setdefault((model, user), Habit(wider.output_tokens, wider))
