"""How likely an attempt at one target fails."""

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
    """The rate at which attempts usually fail, and the odds that there is a brown-out now, in which most of them do.

    A hidden Markov model of two states, filtered: one failure among many answers says little, two in a row say much,
    and answers or time take it back. During a brown-out nearly all attempts are expected to fail, since a call that can
    go elsewhere should. There is no lock: threads that tell at once may lose an outcome, never more.
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
        """Of failures, expected of the next attempt, and in the long run."""
        self.success = 1.0 - self.rate
        self.tries, self.log_tries = 1.0 / self.success, -log2(self.success)
        """How many attempts an answer takes, and the logarithm of that, to the base of 2."""
        self._odds, self._attempts, self.suspected = _RARE, _PRIOR_ATTEMPTS, False
        self._at, self._per_second = now, 1.0 / half_life

    def answered(self, attempts: int, now: float) -> None:
        """So many attempts were answered. While no brown-out is suspected, they need not be told one by one."""
        self._weigh((1.0 - _MOST) / max(1.0 - self.usual_rate, _RARE), now)
        self._learn(0.0, attempts)

    def failed(self, now: float) -> None:
        """An attempt failed."""
        self._weigh(_MOST / max(self.usual_rate, _RARE), now)
        self._learn(1.0, 1)

    def _weigh(self, likelihood: float, now: float) -> None:
        """An outcome came that is *likelihood* times as likely in a brown-out; the odds of one also halve with time."""
        half_lives, self._at = max(0.0, now - self._at) * self._per_second, now
        odds = self._odds * likelihood * 0.5 ** min(half_lives, _MANY)
        self._odds = min(max(odds, _RARE), _LARGEST_ODDS)
        self.suspected = self._odds > _RARE

    def _learn(self, failed: float, attempts: int) -> None:
        """Outcomes count for the long run by how sure it is that there was no brown-out."""
        brown_out = self._odds / (1.0 + self._odds)
        counted = (1.0 - brown_out) * attempts
        self._attempts = min(self._attempts + counted, _MEMORY_ATTEMPTS)
        self.usual_rate += counted * (failed - self.usual_rate) / self._attempts
        self.rate = brown_out * _IN_A_BROWN_OUT + (1.0 - brown_out) * self.usual_rate
        self.success = 1.0 - self.rate
        self.tries, self.log_tries = 1.0 / self.success, -log2(self.success)
