"""What a circuit breaker saw, as the figures people ask for."""

from __future__ import annotations

from dataclasses import dataclass

from llmkit_plugins.plugins.circuit_breaker.health_detector import HealthDetector


@dataclass(frozen=True, slots=True)
class Health:
    """What a circuit breaker has seen within its window.

    Latencies are those of whole answers, in milliseconds; None if there are none yet.
    """

    request_count: int
    """Answers, and failures that speak of health."""
    error_count: int
    error_rate: float
    mean_latency_ms: float | None
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None
    z_score: float
    """How far the latest latency was from the usual one, in standard deviations of its logarithm."""


def health_of(detector: HealthDetector, now: float) -> Health:
    """What *detector* saw in the window that ends *now*."""
    calls, failures, _ = detector.window.counts(now)
    latencies = [detector.histogram.mean(now), *detector.histogram.percentiles(now, 50, 95, 99)]
    mean, p50, p95, p99 = (None if seconds is None else seconds * 1e3 for seconds in latencies)
    return Health(calls, failures, failures / calls if calls else 0.0, mean, p50, p95, p99, detector.latencies.z_score)
