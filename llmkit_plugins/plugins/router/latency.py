"""How long one target takes: to the first chunk, per token, and under concurrent load."""

from __future__ import annotations

from math import expm1, log

LEAST_GAIN = 0.1
"""The least weight of a reading, so that a change shows within twenty of them."""

OUTLIER = 4.0
"""Readings are capped at this many times the mean."""

LONGEST_SECONDS = 1e5
"""Longer durations are capped at this."""

_SETTLED = LEAST_GAIN / (1.0 - LEAST_GAIN)
_INSTANT = 1e-9
_LEAST_OF_IT = 0.1
_UNKNOWN = 1e6
_TELLING = 3
_SETTLING = 64
_SETTLED_EVERY = 16
_USUAL_SECONDS = 600.0
_MOST_FORGOTTEN = 0.1
_FACTOR_GAIN = 0.3
_PROMPT_GAIN = 0.1
_LARGEST_PROMPT_SHARE = 0.9
_PRIOR_VARIANCE = 0.2
_LARGEST_SURPRISE = 4.0


class Latency:
    """Running means of the seconds to the first chunk (unloaded, with a prompt of usual length) and per output token.

    A reading is weighted by the Kalman gain of a random walk (Muth 1960): 1/n for n readings at once, more the longer
    there was none, and at least a tenth. Readings are capped at four times the mean; after a pause, a suddenly fast
    target is believed. Crowding multiplies the time to the first chunk by a factor per power of two of calls in flight,
    learned as they occur and never decreasing; beyond the most calls ever seen, twice as many take twice as long.

    There is no lock: threads that learn concurrently may lose a reading, never more.
    """

    __slots__ = ("_learned", "_per_second", "_readings", "_settled",
                 "_usual_first", "_usual_token", "crowd", "curious", "densest", "factors", "first", "first_now",
                 "gain", "prompt_share", "spread", "token", "token_now", "variance", "venturing")  # fmt: skip

    def __init__(self, first: float, token: float, half_life: float, now: float) -> None:
        self.first = self._usual_first = first
        self.token = self._usual_token = token
        """Recent means, and long-run means."""
        self.first_now, self.token_now = first, token
        """The recent means, adjusted for the calls now in flight."""
        self.prompt_share = 0.0
        """The part of ``first`` that grows with the prompt."""
        self.variance, self.spread = _PRIOR_VARIANCE, expm1(_PRIOR_VARIANCE)
        """Variance of the ratio of actual to predicted time: of its logarithm, and of the ratio itself."""
        self.crowd = self.densest = 0
        """The bit length of the number of calls in flight, and of its maximum so far."""
        self.factors = [1.0]
        """The crowding factors on ``first``, by the bit length of the number of calls in flight."""
        self.curious = True
        """Whether to examine the next answer more closely: the first ones, then every eighth."""
        self.venturing = False
        """Whether more calls are in flight than were during any answer so far."""
        self.gain, self._readings = _UNKNOWN, 0
        """The weight of the last answer."""
        self._per_second = 1.0 / half_life
        self._learned = self._settled = now

    @property
    def known(self) -> bool:
        """Whether there were enough answers to tell."""
        return self._readings >= _TELLING

    def hoped_for(self, tokens: float) -> float:
        """Seconds for an answer, unloaded, by the long-run or the recent means, whichever are better."""
        first = self.first if self.first < self._usual_first else self._usual_first
        return first + tokens * (self.token if self.token < self._usual_token else self._usual_token)

    def usually(self, tokens: float) -> float:
        """Seconds for an answer, unloaded, by the long-run means."""
        return self._usual_first + tokens * self._usual_token

    def beside(self, in_flight: int) -> None:
        """Adjust for *in_flight* calls. Called when something was learned and when the bit length changes; while
        ``venturing``, at each change."""
        self.crowd = crowd = in_flight.bit_length()
        if crowd <= self.densest:
            self.venturing = False
            self.first_now, self.token_now = self.first * self.factors[crowd], self.token
        else:
            self.venturing, slower = True, (in_flight + 1) / (1 << self.densest)
            self.first_now, self.token_now = self.first * self.factors[-1] * slower, self.token * slower

    def first_chunk(self, crowd: int) -> float:
        """Predicted seconds to the first chunk when the number of calls in flight has bit length *crowd*."""
        return self.first * self.factors[crowd if crowd < self.densest else -1]

    def learn(
        self,
        first: float | None,
        seconds: float,
        tokens: float,
        usual_tokens: float,
        crowd: int,
        now: float,
        prompt: float = 0.0,
        answers: int = 1,
    ) -> None:
        """Learn from an answer of *tokens* tokens (*usual_tokens* are usual) that took *seconds*, *first* of them to
        the first chunk; when it was sent, the number of calls in flight had bit length *crowd*.

        With *first* None, the start was not observed: the more tokens, the more of the prediction error goes to them
        (normalised least mean squares, Nagumo and Noda 1967). *prompt* is the prompt's excess over the usual length:
        0 is as usual, 1 is twice as long. With *answers* above one, all figures are their averages. (One function: as
        four it costs half as much again.)
        """
        idle = (now - self._learned) * self._per_second
        gain = self.gain + idle
        self.gain = gain = LEAST_GAIN if gain < _SETTLED else gain / (1.0 + gain)
        self._learned = now
        if answers > 1:
            gain = 1.0 - (1.0 - gain) ** answers

        mean, token = self.first, self.token
        factor = self.factors[crowd] if crowd <= self.densest else self._meet(crowd)
        if prompt:
            factor *= 1.0 + self.prompt_share * prompt
        expected, more = mean * factor, tokens - 1.0
        if first is None:
            few, least = usual_tokens * usual_tokens, _LEAST_OF_IT * expected
            first = expected + (seconds - expected - more * token) * few / (few + tokens * tokens)
            if first < least:
                first = least
        elif first < 0.0:
            first = 0.0
        if first > seconds:
            first = seconds
        alone = first / factor
        if alone > OUTLIER * mean:
            alone = OUTLIER * mean
        elif idle > 1.0:
            gain = max(gain, 1.0 - (alone / mean) ** 2)
        self.first = mean + gain * (alone - mean) + _INSTANT
        if more > 0.0:
            reading = (seconds - first) / more
            if reading > OUTLIER * token:
                reading = OUTLIER * token
            self.token = token + gain * (reading - token) + _INSTANT
        if answers > 1:
            return
        self._readings = readings = self._readings + 1
        if self.curious:
            self.curious = readings < _SETTLING
            self._learn_more(alone / mean, (seconds + _INSTANT) / (expected + tokens * token), crowd, prompt, now)
        elif readings & 7 == 7:
            self.curious = True

    def _learn_more(self, ratio: float, surprise: float, crowd: int, prompt: float, now: float) -> None:
        """Learn everything but the means, for which every eighth answer is enough."""
        square = min(log(surprise) ** 2, _LARGEST_SURPRISE)
        self.variance += LEAST_GAIN * (square - self.variance)
        self.spread = expm1(self.variance)
        if crowd:
            self._bend(crowd, self.factors[crowd] * (1.0 + _FACTOR_GAIN * min(ratio - 1.0, 1.0)))
        if prompt:
            self._stretch(min(ratio - 1.0, 1.0), prompt)
        if self._readings <= _SETTLING or not self._readings % _SETTLED_EVERY:
            self._settle(now)

    def _meet(self, crowd: int) -> float:
        """The factor for more calls in flight than ever before."""
        self.curious = True
        self.factors.extend(self.factors[-1:] * (crowd - self.densest))
        self.densest = len(self.factors) - 1
        return self.factors[crowd]

    def _stretch(self, wrong: float, prompt: float) -> None:
        """Learn that the first chunk for *prompt* took *wrong* times the prediction longer than predicted.

        (Normalised least mean squares, Nagumo and Noda 1967.)
        """
        share = self.prompt_share + _PROMPT_GAIN * wrong * prompt / (0.5 + prompt * prompt)
        self.prompt_share = min(max(share, 0.0), _LARGEST_PROMPT_SHARE)

    def _bend(self, crowd: int, factor: float) -> None:
        """Set the factor of *crowd* to *factor*, and adjust its neighbours so that factors never decrease."""
        factors = self.factors
        factors[crowd] = factor = factor if factor > 1.0 else 1.0
        above, below = crowd + 1, crowd - 1
        while above < len(factors) and factors[above] < factor:
            factors[above] = factor
            above += 1
        while below and factors[below] > factor:
            factors[below] = factor
            below -= 1

    def _settle(self, now: float) -> None:
        """Update the long-run means: all readings at first, then ten minutes. A few readings never move them far."""
        share = 1.0 / self._readings
        if self._readings > _SETTLING:
            share = min(max(_SETTLED_EVERY * share, (now - self._settled) / _USUAL_SECONDS), _MOST_FORGOTTEN)
        self._settled = now
        self._usual_first *= (self.first / self._usual_first) ** share
        self._usual_token *= (self.token / self._usual_token) ** share
