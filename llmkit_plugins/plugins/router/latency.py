"""How long one target takes: until the first chunk, for each token, and beside other calls."""

from __future__ import annotations

from math import expm1, log

LEAST_GAIN = 0.1
"""How much a reading counts at least, so that a change shows within twenty of them."""

OUTLIER = 4.0
"""What is beyond so many times the mean counts as that."""

LONGEST_SECONDS = 1e5
"""What is longer counts as that."""

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
    """Running means of the seconds to the first chunk (alone, with a prompt of the usual length) and per output token.

    A reading counts by the Kalman gain of a level that wanders (Muth 1960): 1/n among n that come at once, more the
    longer there was none, a tenth at least. What is beyond four times the mean counts as that; after a pause a target
    that is suddenly fast is believed. Crowding is a factor on the first chunk for each power of two of calls in flight,
    learned as they occur and never falling; of more calls than were ever seen, twice as many take twice as long.

    There is no lock: threads that learn at once may lose a reading, never more.
    """

    __slots__ = ("_learned", "_per_second", "_readings", "_settled",
                 "_usual_first", "_usual_token", "crowd", "curious", "densest", "factors", "first", "first_now",
                 "gain", "prompt_share", "spread", "token", "token_now", "variance", "venturing")  # fmt: skip

    def __init__(self, first: float, token: float, half_life: float, now: float) -> None:
        self.first = self._usual_first = first
        self.token = self._usual_token = token
        """Means of late, and in the long run."""
        self.first_now, self.token_now = first, token
        """What they are beside the calls that are in flight."""
        self.prompt_share = 0.0
        """The part of ``first`` that grows with the prompt."""
        self.variance, self.spread = _PRIOR_VARIANCE, expm1(_PRIOR_VARIANCE)
        """Of how long answers took beside how long they should have: of the logarithm of that, and of itself."""
        self.crowd = self.densest = 0
        """The bit length of the number of calls in flight, and of the most there ever were."""
        self.factors = [1.0]
        """What crowding makes of ``first``, by the bit length of the number of calls in flight."""
        self.curious = True
        """Whether the next answer will be looked at more closely: the first ones, then every eighth."""
        self.venturing = False
        """Whether there are more calls in flight than there ever were while an answer was awaited."""
        self.gain, self._readings = _UNKNOWN, 0
        """How much the last answer counted."""
        self._per_second = 1.0 / half_life
        self._learned = self._settled = now

    @property
    def known(self) -> bool:
        """Whether there were answers enough to tell."""
        return self._readings >= _TELLING

    def hoped_for(self, tokens: float) -> float:
        """Seconds of an answer alone, if the target is as in the long run, or as of late, whichever is better."""
        first = self.first if self.first < self._usual_first else self._usual_first
        return first + tokens * (self.token if self.token < self._usual_token else self._usual_token)

    def usually(self, tokens: float) -> float:
        """Seconds of an answer alone in the long run."""
        return self._usual_first + tokens * self._usual_token

    def beside(self, in_flight: int) -> None:
        """From now on there are so many calls in flight. To be told when something was learned, and when the bit length
        changes; while ``venturing``, at each change."""
        self.crowd = crowd = in_flight.bit_length()
        if crowd <= self.densest:
            self.venturing = False
            self.first_now, self.token_now = self.first * self.factors[crowd], self.token
        else:
            self.venturing, slower = True, (in_flight + 1) / (1 << self.densest)
            self.first_now, self.token_now = self.first * self.factors[-1] * slower, self.token * slower

    def first_chunk(self, crowd: int) -> float:
        """Predicted seconds to the first chunk beside a number of calls of the bit length *crowd*."""
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
        """An answer to what was sent beside a number of calls of the bit length *crowd* was complete after *seconds*,
        *first* of them before it began, and had *tokens* tokens, where *usual_tokens* are usual.

        With *first* None, nobody saw it begin: what was not predicted goes to the tokens the more there are (normalised
        least mean squares, Nagumo and Noda 1967). *prompt* is by how many times its usual length the prompt was longer:
        0 is as usual, 1 is twice as long. With more than one of *answers*, all this is their average. (One function: as
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
        """What can be learned from every eighth answer as well: all that is not the means."""
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
        """The factor beside more calls than there ever were."""
        self.curious = True
        self.factors.extend(self.factors[-1:] * (crowd - self.densest))
        self.densest = len(self.factors) - 1
        return self.factors[crowd]

    def _stretch(self, wrong: float, prompt: float) -> None:
        """The first chunk of that *prompt* took longer by *wrong* times what was predicted.

        (Normalised least mean squares, Nagumo and Noda 1967.)
        """
        share = self.prompt_share + _PROMPT_GAIN * wrong * prompt / (0.5 + prompt * prompt)
        self.prompt_share = min(max(share, 0.0), _LARGEST_PROMPT_SHARE)

    def _bend(self, crowd: int, factor: float) -> None:
        """Make *factor* that of *crowd*; what contradicts it on either side follows."""
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
        """The long run: the mean of all readings at first, then of ten minutes. A few readings never move it far."""
        share = 1.0 / self._readings
        if self._readings > _SETTLING:
            share = min(max(_SETTLED_EVERY * share, (now - self._settled) / _USUAL_SECONDS), _MOST_FORGOTTEN)
        self._settled = now
        self._usual_first *= (self.first / self._usual_first) ** share
        self._usual_token *= (self.token / self._usual_token) ** share
