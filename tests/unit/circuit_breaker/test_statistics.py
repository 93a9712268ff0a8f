"""The window, the confidence bound, the histogram, and the health they make."""

from __future__ import annotations

import random
from math import ceil, exp

import pytest

from llmkit_plugins.plugins.circuit_breaker import CircuitBreaker
from llmkit_plugins.plugins.circuit_breaker.histogram import LARGEST, SMALLEST, Histogram
from llmkit_plugins.plugins.circuit_breaker.window import Window, wilson_lower_bound


def exact(latencies, percent):
    return sorted(latencies)[max(1, ceil(percent / 100 * len(latencies))) - 1]


@pytest.mark.parametrize(
    ("hits", "calls", "z", "bound"),
    # 5 of 10 and 81 of 263 at 95 % are worked examples of the literature (Newcombe 1998).
    [(0, 0, 2.5, 0.0), (0, 10, 1.96, 0.0), (5, 10, 1.96, 0.2366), (81, 263, 1.96, 0.2553), (10, 10, 1.96, 0.7225)],
)
def test_wilson_lower_bound(hits, calls, z, bound):
    """The bound is the one that the literature works out."""
    assert wilson_lower_bound(hits, calls, z) == pytest.approx(bound, abs=5e-5)


def test_the_window_forgets_a_tenth_at_a_time():
    """What was counted leaves after nine to ten tenths of the window, bucket by bucket."""
    window = Window(10.0, 0.0)
    for second in range(10):
        window.add(second + 0.5, calls=1, failures=second % 2, slow=1)
    assert window.counts(9.9) == (10, 5, 10)
    assert window.counts(10.0) == (9, 5, 9)
    assert window.counts(14.5) == (5, 3, 5)
    assert window.counts(500.0) == (0, 0, 0)
    window.add(500.5, calls=2)
    assert window.counts(501.0) == (2, 0, 0)


def test_the_window_tells_of_each_stretch_up_to_now():
    """The stretches grow bucket by bucket into the past, the present one first."""
    window = Window(10.0, 0.0)
    for second in range(14):
        window.add(second + 0.5, calls=second)
    assert [counts.calls for counts in window.stretches(13.9)] == [13, 25, 36, 46, 55, 63, 70, 76, 81, 85]


@pytest.mark.parametrize(("gap", "left"), [(0.0, 5), (9.99, 5), (10.0, 0), (10.5, 0), (99.0, 0), (1e9, 0)])
def test_the_window_is_empty_after_a_gap(gap, left):
    """After a gap of a whole window nothing is left, however it falls on the buckets."""
    window = Window(10.0, 0.0)
    window.add(0.0, calls=5)
    assert window.counts(gap).calls == left


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("answers", [1, 2, 10, 1000, 20_000])
def test_percentiles_are_within_five_per_cent_of_exact(sigma, answers):
    """Percentiles of the histogram are within 5 % of those of the sorted latencies."""
    rng = random.Random(answers)
    histogram = Histogram(60.0, 0.0)
    latencies = [min(max(exp(rng.gauss(0, sigma)), SMALLEST * 1.1), LARGEST * 0.9) for _ in range(answers)]
    for seconds in latencies:
        histogram.add(1.0, seconds)
    for percent, found in zip((50, 95, 99), histogram.percentiles(1.0, 50, 95, 99), strict=True):
        assert found == pytest.approx(exact(latencies, percent), rel=0.05)
    assert histogram.mean(1.0) == pytest.approx(sum(latencies) / answers)


def test_what_is_out_of_range_is_counted_at_its_end(make):
    """Answers below a millisecond and above twenty minutes are counted as such."""
    breaker = make()
    breaker.record_success(0.0)
    assert breaker.health().p50_latency_ms == pytest.approx(1.0, rel=0.06)
    for _ in range(10):
        breaker.record_success(1e6)
    assert breaker.health().p99_latency_ms == pytest.approx(LARGEST * 1e3, rel=0.06)


def test_the_histogram_looks_back_half_a_window_to_a_whole_one():
    """Latencies stay for half the window at least, and are gone after the whole."""
    histogram = Histogram(60.0, 0.0)
    histogram.add(29.0, 1.0)
    histogram.turn(31.0)
    histogram.add(31.0, 5.0)
    assert histogram.percentiles(59.0, 1, 99) == pytest.approx([1.0, 5.0], rel=0.05)
    assert histogram.percentiles(61.0, 1, 99) == pytest.approx([5.0, 5.0], rel=0.05)
    assert histogram.percentiles(121.0, 1, 99) == [None, None]
    assert histogram.mean(121.0) is None


def test_a_full_counter_begins_a_new_generation():
    """More answers than a counter holds shorten the window and break nothing."""
    histogram = Histogram(1e9, 0.0)
    for _ in range(200_000):
        histogram.add(1.0, 0.2)
    assert histogram.percentiles(1.0, 50) == pytest.approx([0.2], rel=0.05)
    assert histogram.mean(1.0) == pytest.approx(0.2, rel=0.001)


def test_a_full_counter_breaks_no_call(make):
    """A breaker that sees more equal answers than a counter holds goes on counting."""
    breaker = make()
    for _ in range(70_000):
        breaker.record_success(0.2)
    assert breaker.health().request_count == 70_000
    assert breaker.health().p50_latency_ms == pytest.approx(200.0, rel=0.05)


def test_health_of_a_breaker_that_saw_nothing(make):
    """Without calls there are no latencies, and the rate is 0."""
    health = make().health()
    assert (health.request_count, health.error_count, health.error_rate, health.z_score) == (0, 0, 0.0, 0.0)
    assert health.mean_latency_ms is health.p50_latency_ms is health.p95_latency_ms is health.p99_latency_ms is None


def test_health_counts_and_measures(make):
    """Counts are exact, percentiles within 5 %, in milliseconds."""
    breaker = make()
    for number in range(1, 100):
        breaker.record_success(number / 100)
    breaker.record_failure("server")
    health = breaker.health()
    assert (health.request_count, health.error_count, health.error_rate) == (100, 1, 0.01)
    assert health.mean_latency_ms == pytest.approx(500.0)
    assert health.p50_latency_ms == pytest.approx(500.0, rel=0.05)
    assert health.p95_latency_ms == pytest.approx(950.0, rel=0.05)
    assert health.p99_latency_ms == pytest.approx(990.0, rel=0.05)


def test_health_is_that_of_the_window(make, clock):
    """What is older than the window is not in the health."""
    breaker = make(window_seconds=60.0)
    breaker.record_success(0.1)
    clock.advance(120.0)
    breaker.record_success(0.3)
    assert breaker.health().request_count == 1
    assert breaker.health().p50_latency_ms == pytest.approx(300.0, rel=0.05)


def test_breakers_share_their_settings():
    """Equal settings are one object, however many breakers have them."""
    assert CircuitBreaker("a", z_score=2.0).config is CircuitBreaker("b", z_score=2).config
