"""The latencies of one target, each compared with earlier ones of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from math import log

from llmkit_plugins.plugins.circuit_breaker.config import CircuitBreakerConfig
from llmkit_plugins.plugins.circuit_breaker.histogram import clamped
from llmkit_plugins.plugins.circuit_breaker.latency_detector import BOUND, FAR, LatencyDetector
from llmkit_plugins.plugins.circuit_breaker.states import Reason

TOKEN_FLOOR = 0.1
"""The share of ``latency_floor_seconds`` below which differences in the time per output token do not matter."""


Parts = tuple[float | None, float | None, float | None]
"""The latencies of an answer that can be compared with earlier ones, in seconds: in total (None if that depends on how
much was asked and another says more), to the first chunk, and per output token."""


class Latencies:
    """Watches each of the latencies separately. One that stays high for ``relearn_seconds`` becomes the new normal."""

    _calm_since: float | None
    """When the circuit last closed; None once latency has opened it."""
    _slow_since: float | None
    """When the current anomaly began, including earlier ones without sustained health in between."""
    first_chunk: LatencyDetector | None
    per_token: LatencyDetector | None

    __slots__ = ("_calm_since", "_config", "_slow_since", "first_chunk", "per_token", "whole")

    def __init__(self, config: CircuitBreakerConfig, now: float) -> None:
        self._config = config
        self._calm_since = now
        self._forget()

    def calm(self, now: float) -> None:
        """Forget what was unusual."""
        self._calm_since = now
        for detector in self._known():
            detector.total = 0.0

    def keep_pace(self, calls_per_second: float) -> None:
        """Let the baseline adapt over ``relearn_seconds``, however dense traffic is: a slow drift is not followed."""
        for detector in self._known():
            detector.remember(calls_per_second * self._config.relearn_seconds)

    @property
    def z_score(self) -> float:
        """The latest z-score; the worst if several latencies are watched."""
        return max(detector.z_score for detector in self._known())

    def watch_first_chunk(self) -> LatencyDetector:
        """Begin to watch the time to the first chunk."""
        watched = self.first_chunk = self._detector()
        return watched

    def watch_per_token(self) -> LatencyDetector:
        """Begin to watch the time per output token."""
        watched = self.per_token = self._detector(TOKEN_FLOOR)
        return watched

    def timed_out(self, now: float, seconds: float) -> Reason | None:
        """Learn that an answer did not even begin within *seconds*."""
        detector = self.first_chunk or self.whole
        if not detector.exceeded(log(clamped(seconds))):
            return None
        return self.risen(now, "latency" if detector is self.whole else "time_to_first_chunk", detector)

    def risen(self, now: float, statistic: str, detector: LatencyDetector) -> Reason | None:
        """The reason to open, as the latency that *detector* watches has risen; None if it is the new normal."""
        return self._suspect(now, Reason(statistic, detector.total, BOUND))

    def unusual(self, now: float, parts: Parts) -> Reason | None:
        """Judge a probe's *parts* without learning from them; the reason is the worst z-score.

        If latency opened the circuit, a probe must be as fast as usual; otherwise it must not be far off.
        """
        limit = self._config.z_score if self._calm_since is None else max(self._config.z_score, FAR)
        scores = [(detector.judge(log(clamped(seconds))), name) for name, seconds, detector in self._watched(parts)]
        z, statistic = max(scores, default=(0.0, ""))
        return self._suspect(now, Reason(statistic, z, limit)) if z > limit else None

    def _suspect(self, now: float, reason: Reason) -> Reason | None:
        """Return *reason*, unless it has been slow for so long that this is the new normal: then relearn."""
        calm_since = self._calm_since
        if self._slow_since is None or (calm_since is not None and now - calm_since >= self._config.open_seconds):
            self._slow_since = now
        if now - self._slow_since >= self._config.relearn_seconds:
            self._forget()
            return None
        self._calm_since = None
        return reason

    def _forget(self) -> None:
        self.whole = self._detector()
        self.first_chunk = self.per_token = self._slow_since = None

    def _watched(self, parts: Parts) -> Iterator[tuple[str, float, LatencyDetector]]:
        whole, first_chunk, per_token = parts
        if whole is not None:
            yield "latency", whole, self.whole
        if first_chunk is not None:
            yield "time_to_first_chunk", first_chunk, self.first_chunk or self.watch_first_chunk()
        if per_token is not None:
            yield "seconds_per_output_token", per_token, self.per_token or self.watch_per_token()

    def _known(self) -> Iterator[LatencyDetector]:
        return (detector for detector in (self.whole, self.first_chunk, self.per_token) if detector)

    def _detector(self, floor: float = 1.0) -> LatencyDetector:
        config = self._config
        return LatencyDetector(config.z_score, config.learning_calls, floor * config.latency_floor_seconds)
