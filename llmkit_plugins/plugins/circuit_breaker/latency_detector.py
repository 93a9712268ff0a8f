"""Whether latency has risen: a robust z-score of its logarithm, accumulated."""

from __future__ import annotations

from array import array
from math import inf, log
from statistics import median

BOUND = 6.0
"""The limit on the sum of deviations, in standard deviations. With a reference of half the z-score, healthy answers
exceed it once in about e^(7.2 z) / (z² / 2): once in 4e4 answers at z 1.5, in 2e7 at 2.5 (Siegmund 1985)."""

LEAST_SPREAD = 0.2
"""A fifth up or down is never unusual, however steady the latency."""

FAR = 4.0
"""Beyond this many standard deviations an answer is a straggler, outside the body of the distribution."""

ENORMOUS = 4.0
"""This many times the z-score is enough by itself: with steady latency, an answer that took seven times as long as
usual. Below that, a second one has to follow soon."""
NOT_ENOUGH = 0.9 * BOUND

ABOVE = 0.1
"""The approximate share of answers above the reference; stragglers are counted only among these."""
STRAGGLER_GAIN = 1 / 400
STRAGGLERS_ARE_USUAL = 2.5 * STRAGGLER_GAIN
"""Three among the last four hundred above the reference, or the last four thousand in all."""

LEAST_MEMORY = 512
"""How many answers the baseline covers once there are that many; more in dense traffic."""
_KNOWN = 1 / LEAST_MEMORY

# The median absolute deviation and 90th percentile of a Gaussian, in standard deviations, and the steps that track a
# quantile as exactly as the sample's own would: share of the other side / density (Robbins, Monro 1951).
_MAD = 0.6745
_P90 = 1.2816
_STEP = 1.2
"""For both the median and the median absolute deviation; exactly 1.25 and 1.17."""
_UPPER_RISE = 0.9 / 0.1755
_UPPER_FALL = 0.1 / 0.1755


class LatencyDetector:
    """Notices that latency has risen: at once if it jumped, after a few answers if it shifted (CUSUM, Page 1954).

    The baseline is the median of log latency and a standard deviation: 1.4826 times the median absolute deviation or,
    if greater (short and long answers mixed), 0.78 times the distance from the median to the 90th percentile. The
    first *learning_calls* answers give them exactly. Each later one moves them by a step that depends only on its side,
    never on its distance, so that no single answer can spoil them; and while the sum is above half of its bound
    nothing is learned, so that an anomaly does not become the baseline before it is noticed.

    A single answer is enough only if it is enormous: every provider has a slow one now and then. If stragglers are
    common, one proves little, and its contribution to the sum is capped at the logarithm of its rarity, as in Huber's
    robust form of the sequential test (1965): it then takes two or three of them in a row.

    There is no lock: threads that add concurrently may lose an answer's influence, never more.
    """

    __slots__ = (
        "_centre",
        "_deviation",
        "_floor",
        "_gain",
        "_learning_calls",
        "_ordinary",
        "_reference",
        "_sample",
        "_spread",
        "_stragglers",
        "_upper",
        "total",
    )

    def __init__(self, z_score: float, learning_calls: int, floor_seconds: float) -> None:
        self._reference = z_score / 2
        self._floor = log(floor_seconds)
        self._learning_calls = learning_calls
        self._sample: array[float] | None = array("d")
        self._centre = self._spread = self._upper = self._gain = self._stragglers = self._deviation = 0.0
        self._ordinary = -inf
        """The reference as a deviation of log latency: up to this, an answer adds nothing to the sum."""
        self.total = 0.0
        """The sum of deviations, in standard deviations; above ``BOUND`` latency has risen."""

    @property
    def z_score(self) -> float:
        """How far the latest answer was from the median, in standard deviations; 0 while that is unknown."""
        return self._deviation * self._reference / self._ordinary if self._sample is None else 0.0

    def remember(self, answers: float) -> None:
        """Let the baseline cover *answers*, but at least ``LEAST_MEMORY``, once there are that many."""
        if self._gain <= _KNOWN and self._sample is None:
            self._gain = 1.0 / max(answers, LEAST_MEMORY)

    def judge(self, log_seconds: float) -> float:
        """The z-score of an answer, without learning from it."""
        if self._sample is None:
            self._deviation = max(log_seconds, self._floor) - self._centre
        return self.z_score

    def exceeded(self, log_seconds: float) -> bool:
        """Learn from an answer; returns whether latency has risen. (A separate method would cost a quarter more.)"""
        if log_seconds < self._floor:
            log_seconds = self._floor
        self._deviation = deviation = log_seconds - self._centre
        if deviation > self._ordinary or self.total:
            if self._sample is not None:
                return self._learn_first(self._sample, log_seconds)
            self.total = total = self._added(self.z_score)
            if total + total > BOUND:
                return total > BOUND

        gain, spread, upper = self._gain, self._spread, self._upper
        if gain > _KNOWN:
            self._gain = gain = gain / (1.0 + gain)
        step = gain * spread
        if deviation > upper:
            upper += _UPPER_RISE * step
        else:
            upper -= _UPPER_FALL * step
        step *= _STEP
        if deviation > 0.0:
            self._centre += step
        else:
            self._centre -= step
            deviation = -deviation
        if deviation > _MAD * spread:
            spread += step
        elif spread > LEAST_SPREAD:
            spread -= step
        self._spread, self._upper = spread, upper
        self._ordinary = self._reference * (spread if upper < _P90 * spread else upper / _P90)
        return False

    def _added(self, z: float) -> float:
        """The sum including an answer that is above the reference, or comes soon after one."""
        part = z - self._reference
        rarity = self._stragglers
        if part > 0:
            self._stragglers = rarity + STRAGGLER_GAIN * ((z > FAR) - rarity)
        if rarity > STRAGGLERS_ARE_USUAL:
            part = min(part, -log(rarity * ABOVE) / (2 * self._reference))
        if z < 2 * ENORMOUS * self._reference:
            part = min(part, NOT_ENOUGH)
        return max(0.0, self.total + part)

    def _learn_first(self, sample: array[float], log_seconds: float) -> bool:
        sample.append(log_seconds)
        if len(sample) >= self._learning_calls:
            self._centre = median(sample)
            deviations = sorted(x - self._centre for x in sample)
            self._upper = deviations[int(0.9 * len(sample))]
            self._spread = max(median(map(abs, deviations)) / _MAD, LEAST_SPREAD)
            self._ordinary = self._reference * max(self._spread, self._upper / _P90)
            far = FAR / self._reference * self._ordinary
            above = [x for x in deviations if x > self._ordinary]
            self._stragglers = sum(x > far for x in above) / max(len(above), 1)
            self._gain = 1 / len(sample)
            self._deviation, self._sample = 0.0, None
        return False
