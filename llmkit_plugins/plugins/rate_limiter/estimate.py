"""Estimates the tokens a call will use, learning from what earlier calls used."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, sqrt

_PRIOR_CHARS = 2000.0
_TOKENS_PER_CHAR = 0.25
_PRIOR_OUTPUT_TOKENS = 256.0
_HORIZON_CHARS = 1e6
_OUTPUT_PROBABILITY = 0.9
_FIRST_MARGIN = 1.5
_SMALLEST_GAIN = 0.07
_SETTLED = 1.0 / _SMALLEST_GAIN**2
"""Values seen until the gain is down to the smallest."""
_MAX_MODELS = 1000


class Quantile:
    """A running quantile in two numbers: a stochastic approximation (Robbins and Monro 1951) on the logarithm.

    A value above the estimate raises it and one below lowers it, by factors that balance at the quantile. The factors
    shrink as more values are seen, but not below a few percent, so that it keeps adapting. *value* is the guess until
    the first value is seen.
    """

    __slots__ = ("_down", "_up", "probability", "seen", "value")

    def __init__(self, probability: float, value: float) -> None:
        self.probability, self.value, self.seen = probability, value, 0
        self._up, self._down = self._factors(_SMALLEST_GAIN)

    def learn(self, value: float) -> None:
        """Learn from another *value*, which is above 0."""
        self.seen += 1
        if self.seen == 1:
            self.value = value * _FIRST_MARGIN
            return
        up, down = (self._up, self._down) if self.seen > _SETTLED else self._factors(1.0 / sqrt(self.seen))
        self.value *= up if value > self.value else down

    def _factors(self, gain: float) -> tuple[float, float]:
        """The factors applied for a value above the estimate, and for one below."""
        return exp(gain * self.probability), exp(gain * (self.probability - 1.0))


class Profile:
    """What has been learned about one model."""

    __slots__ = ("chars", "output", "priced_tokens", "tokens", "usd")

    def __init__(self, tokens_per_char: float, output_tokens: float) -> None:
        self.chars = _PRIOR_CHARS
        self.tokens = _PRIOR_CHARS * tokens_per_char
        self.output = Quantile(_OUTPUT_PROBABILITY, output_tokens)
        self.usd = 0.0
        self.priced_tokens = 0.0

    def learn(self, chars: int, input_tokens: float | None, output_tokens: float | None) -> None:
        """Learn from what one answered call used."""
        if input_tokens and chars:
            self.chars += chars
            self.tokens += input_tokens
            if self.chars > _HORIZON_CHARS:
                self.chars /= 2
                self.tokens /= 2
        if output_tokens:
            self.output.learn(output_tokens)

    def learn_cost(self, tokens: float, usd: float) -> None:
        """Learn that *tokens* cost *usd*."""
        self.priced_tokens = self.priced_tokens * 0.95 + tokens
        self.usd = self.usd * 0.95 + usd


class Estimator:
    """Estimates tokens and cost per model. A model not seen before is assumed to be like all the others.

    The prompt's estimate is its characters times the ratio of tokens to characters learned so far; the answer's is the
    90th percentile of answers, or ``max_tokens`` if that is less.
    """

    def __init__(self) -> None:
        self._all = Profile(_TOKENS_PER_CHAR, _PRIOR_OUTPUT_TOKENS)
        self._models: dict[str, Profile] = {}

    def tokens(self, model: str | None, chars: int, max_tokens: float | None = None) -> tuple[float, float]:
        """Expected input and output tokens of a prompt of *chars* characters."""
        known = self._models.get(model or "", self._all)
        output = known.output.value
        return chars * known.tokens / known.chars, output if max_tokens is None else min(output, max_tokens)

    def cost(self, model: str | None, tokens: float) -> float:
        """Expected US dollars for *tokens*; 0.0 until a cost has been seen."""
        known = self._models.get(model or "", self._all)
        known = known if known.priced_tokens else self._all
        return tokens * known.usd / known.priced_tokens if known.priced_tokens else 0.0

    def learn(self, model: str | None, chars: int, input_tokens: float | None, output_tokens: float | None) -> None:
        """Learn from what one answered call used, as far as that is known."""
        for profile in self._both(model):
            profile.learn(chars, input_tokens, output_tokens)

    def learn_cost(self, model: str | None, tokens: float, usd: float) -> None:
        """Learn that *tokens* cost *usd* US dollars."""
        if tokens > 0:
            for profile in self._both(model):
                profile.learn_cost(tokens, usd)

    def _both(self, model: str | None) -> Sequence[Profile]:
        if not model:
            return (self._all,)
        profile = self._models.get(model)
        if profile is None:
            while len(self._models) >= _MAX_MODELS:
                self._models.pop(next(iter(self._models)), None)
            everybody = self._all
            profile = Profile(everybody.tokens / everybody.chars, everybody.output.value)
            profile = self._models.setdefault(model, profile)
        return (self._all, profile)
