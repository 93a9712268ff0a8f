"""The latencies of one target, each compared with its like."""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import NamedTuple

from llmkit_plugins.plugins.circuit_breaker.config import CircuitBreakerConfig
from llmkit_plugins.plugins.circuit_breaker.histogram import clamped
from llmkit_plugins.plugins.circuit_breaker.latency import BOUND, LatencyDetector
from llmkit_plugins.plugins.circuit_breaker.states import Reason

TOKEN_FLOOR = 0.1
"""The part of ``latency_floor_seconds`` below which the time per output token is all the same."""


class Parts(NamedTuple):
    """The latencies of an answer that can be compared with earlier ones, in seconds."""

    whole: float | None = None
    """None where it depends on how much was asked, and another says more."""
    first_chunk: float | None = None
    per_token: float | None = None


class Latencies:
    """Watches each of the latencies on its own. One that stays high for ``relearn_seconds`` becomes the usual."""

    _slow_since: float | None

    __slots__ = ("_calm_since", "_config", "_first_chunk", "_per_token", "_slow_since", "whole")

    def __init__(self, config: CircuitBreakerConfig, now: float) -> None:
        self._config = config
        self._calm_since = now
        self._forget()

    def calm(self, now: float) -> None:
        """Forget what was unusual."""
        self._calm_since = now
        for detector in (self.whole, self._first_chunk, self._per_token):
            if detector is not None:
                detector.total = 0.0

    @property
    def z_score(self) -> float:
        """The latest z-score; where several latencies are watched, the worst."""
        return max(d.z_score for d in (self.whole, self._first_chunk, self._per_token) if d is not None)

    def risen_in(self, now: float, parts: Parts) -> Reason | None:
        """Learn from *parts*; the reason is that one of them has risen."""
        for statistic, seconds, detector in self._watched(parts):
            if detector.exceeded(log(clamped(seconds))):
                return self.risen(now, statistic, detector)
        return None

    def timed_out(self, now: float, seconds: float) -> Reason | None:
        """Learn from an answer that did not even begin within *seconds*."""
        detector = self._first_chunk or self.whole
        if not detector.exceeded(log(clamped(seconds))):
            return None
        return self.risen(now, "latency" if detector is self.whole else "time_to_first_chunk", detector)

    def risen(self, now: float, statistic: str, detector: LatencyDetector) -> Reason | None:
        """The reason to open, as the latency has risen that *detector* watches; None where it is the new normal."""
        if now - self._calm_since >= self._config.open_seconds:
            self._slow_since = None
        return None if self._is_new_normal(now) else Reason(statistic, detector.total, BOUND)

    def unusual(self, now: float, parts: Parts) -> Reason | None:
        """Judge *parts* that nothing is to be learned from; the reason is the worst z-score."""
        scores = [(detector.judge(log(clamped(seconds))), name) for name, seconds, detector in self._watched(parts)]
        z, statistic = max(scores, default=(0.0, ""))
        if z <= self._config.z_score or self._is_new_normal(now):
            return None
        return Reason(statistic, z, self._config.z_score)

    def _is_new_normal(self, now: float) -> bool:
        """Whether it has been slow for so long that this is usual now; then that is learned."""
        if self._slow_since is None:
            self._slow_since = now
        lasts = now - self._slow_since >= self._config.relearn_seconds
        if lasts:
            self._forget()
        return lasts

    def _forget(self) -> None:
        self.whole = self._detector()
        self._first_chunk: LatencyDetector | None = None
        self._per_token: LatencyDetector | None = None
        self._slow_since = None

    def _watched(self, parts: Parts) -> Iterator[tuple[str, float, LatencyDetector]]:
        whole, first_chunk, per_token = parts
        if whole is not None:
            yield "latency", whole, self.whole
        if first_chunk is not None:
            self._first_chunk = self._first_chunk or self._detector()
            yield "time_to_first_chunk", first_chunk, self._first_chunk
        if per_token is not None:
            self._per_token = self._per_token or self._detector(TOKEN_FLOOR)
            yield "seconds_per_output_token", per_token, self._per_token

    def _detector(self, floor: float = 1.0) -> LatencyDetector:
        config = self._config
        return LatencyDetector(config.z_score, config.learning_calls, floor * config.latency_floor_seconds)
