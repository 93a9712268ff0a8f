"""How likely an attempt at one target is to fail."""

from __future__ import annotations

from math import log2

_RARE = 0.0005
_LARGEST_ODDS = 8.0
_MOST = 0.8
_IN_A_BROWN_OUT = 0.9
_PRIOR_RATE = 0.005
_PRIOR_ATTEMPTS = 200.0
_MEMORY_ATTEMPTS = 2000.0
_MANY = 100.0


class Failures:
    """The usual failure rate of attempts, and the odds of a brown-out now, in which most attempts fail.

    A filtered two-state hidden Markov model: one failure among many answers says little, two in a row say a lot, and
    answers or time undo it. During a brown-out nearly all attempts are expected to fail, since a call that can go
    elsewhere should. There is no lock: threads that report concurrently may lose an outcome, never more.
    """

    __slots__ = (
        "_at",
        "_attempts",
        "_odds",
        "_per_second",
        "log_tries",
        "rate",
        "success",
        "suspected",
        "tries",
        "usual_rate",
    )

    def __init__(self, half_life: float, now: float) -> None:
        self.rate = self.usual_rate = _PRIOR_RATE
        """Failure rates: expected for the next attempt, and in the long run."""
        self.success = 1.0 - self.rate
        self.tries, self.log_tries = 1.0 / self.success, -log2(self.success)
        """How many attempts an answer takes, and its base-2 logarithm."""
        self._odds, self._attempts, self.suspected = _RARE, _PRIOR_ATTEMPTS, False
        self._at, self._per_second = now, 1.0 / half_life

    def answered(self, attempts: int, now: float) -> None:
        """Learn that *attempts* were answered. Unless a brown-out is suspected, they may be reported in batches."""
        self._weigh((1.0 - _MOST) / max(1.0 - self.usual_rate, _RARE), now)
        self._learn(0.0, attempts)

    def failed(self, now: float) -> None:
        """Learn that an attempt failed."""
        self._weigh(_MOST / max(self.usual_rate, _RARE), now)
        self._learn(1.0, 1)

    def _weigh(self, likelihood: float, now: float) -> None:
        """Weigh an outcome that is *likelihood* times as likely in a brown-out; its odds also halve with time."""
        half_lives, self._at = max(0.0, now - self._at) * self._per_second, now
        odds = self._odds * likelihood * 0.5 ** min(half_lives, _MANY)
        self._odds = min(max(odds, _RARE), _LARGEST_ODDS)
        self.suspected = self._odds > _RARE

    def _learn(self, failed: float, attempts: int) -> None:
        """Count outcomes towards the long run in proportion to the probability that there was no brown-out."""
        brown_out = self._odds / (1.0 + self._odds)
        counted = (1.0 - brown_out) * attempts
        self._attempts = min(self._attempts + counted, _MEMORY_ATTEMPTS)
        self.usual_rate += counted * (failed - self.usual_rate) / self._attempts
        self.rate = brown_out * _IN_A_BROWN_OUT + (1.0 - brown_out) * self.usual_rate
        self.success = 1.0 - self.rate
        self.tries, self.log_tries = 1.0 / self.success, -log2(self.success)
