"""What opens a circuit: runs and rates of failures, 429, time-outs, slow calls."""

from __future__ import annotations

import pytest

from llmkit_plugins import ConfigError
from llmkit_plugins.errors import HEALTH_KINDS
from llmkit_plugins.plugins.circuit_breaker import State


def reason_of(breaker):
    told = []
    breaker.listeners.append(told.append)
    return lambda: told[-1].reason if told else None


@pytest.mark.parametrize("kind", sorted(HEALTH_KINDS))
def test_a_quiet_target_opens_after_five_failures_in_a_row(make, clock, kind):
    """Five failures open a circuit that has no volume, however far apart they are."""
    breaker = make()
    reason = reason_of(breaker)
    for _ in range(4):
        breaker.record_failure(kind)
        clock.advance(3600.0)
    assert breaker.state is State.CLOSED
    breaker.record_failure(kind)
    assert breaker.state is State.OPEN
    assert (reason().statistic, reason().value, reason().threshold) == ("consecutive_failures", 5, 5)


def test_an_answer_ends_a_run(make):
    """Four failures, an answer and four failures are no five in a row."""
    breaker = make()
    for _ in range(4):
        breaker.record_failure("server")
    breaker.record_success(0.1)
    for _ in range(4):
        breaker.record_failure("server")
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("kind", ["auth", "not_found", "bad_request", "context_length", "content_filter", "cancelled"])
def test_the_callers_errors_do_not_count(make, kind):
    """Errors that speak of the caller open nothing and are no requests."""
    breaker = make()
    for _ in range(100):
        breaker.record_failure(kind)
    assert breaker.state is State.CLOSED
    assert breaker.health().request_count == 0


def test_a_brown_out_opens_by_its_rate(make):
    """Every fourth call failing opens, though never two in a row, and the rate that is told is a proven one."""
    breaker = make()
    reason = reason_of(breaker)
    calls = 0
    while breaker.state is State.CLOSED and calls < 200:
        calls += 1
        if calls % 4:
            breaker.record_success(0.1)
        else:
            breaker.record_failure("server")
    assert reason().statistic == "failure_rate"
    assert reason().threshold == 0.1 < reason().value < 0.25
    assert calls < 60


def test_old_health_hides_no_new_trouble(make, clock):
    """A minute of dense healthy traffic does not keep a brown-out from being noticed within some dozen calls."""
    breaker = make()
    for _ in range(3000):
        clock.advance(0.02)
        breaker.record_success(0.1)
    calls = 0
    while breaker.state is State.CLOSED and calls < 3000:
        clock.advance(0.02)
        calls += 1
        if calls % 4:
            breaker.record_success(0.1)
        else:
            breaker.record_failure("server")
    assert calls < 400


def test_few_calls_prove_nothing(make):
    """Three failures among ten calls are a rate of 30 %, but below the minimum volume."""
    breaker = make()
    for number in range(10):
        if number % 3:
            breaker.record_success(0.1)
        else:
            breaker.record_failure("server")
    assert breaker.state is State.CLOSED


def test_a_rate_below_the_threshold_never_opens(make):
    """Every twentieth call failing is no brown-out, for as long as it lasts."""
    breaker = make()
    for number in range(5000):
        if number % 20:
            breaker.record_success(0.1)
        else:
            breaker.record_failure("server")
    assert breaker.state is State.CLOSED


def test_old_failures_are_forgotten(make, clock):
    """Failures that have left the window no longer count towards the rate."""
    breaker = make(window_seconds=60.0, consecutive_failures=100)
    for _ in range(19):
        breaker.record_failure("server")
    clock.advance(66.0)
    for _ in range(30):
        breaker.record_success(0.1)
    breaker.record_failure("server")
    assert breaker.state is State.CLOSED
    assert breaker.health().error_count == 1


def test_a_burst_of_429_between_answers_opens_nothing(make):
    """Capacity that comes and goes is no reason to stay away."""
    breaker = make()
    for _ in range(50):
        for _ in range(4):
            breaker.record_failure("rate_limit", retry_after=30.0)
        breaker.record_success(0.1)
    assert breaker.state is State.CLOSED
    assert breaker.health().error_count == 0


def test_429_that_persist_open_for_retry_after(make, clock):
    """Five 429 in a row open until the latest moment that was named, not a second longer or shorter."""
    breaker = make(random=lambda: 0.9)
    reason = reason_of(breaker)
    for seconds in (20.0, 300.0, 10.0, 10.0, 10.0):
        breaker.record_failure("rate_limit", retry_after=seconds)
    assert reason().statistic == "rate_limit"
    assert breaker.retry_after() == 300.0
    clock.advance(299.9)
    assert breaker.state is State.OPEN
    clock.advance(0.2)
    assert breaker.state is State.HALF_OPEN


def test_429_without_retry_after_open_for_the_usual_time(make):
    """A provider that does not say how long is left alone for the base time."""
    breaker = make()
    for _ in range(5):
        breaker.record_failure("rate_limit")
    assert breaker.retry_after() == 60.0


def test_capacity_does_not_make_later_outages_longer(make, clock):
    """After 429 that were obeyed, the first real outage still opens for the base time."""
    breaker = make()
    for _ in range(5):
        breaker.record_failure("rate_limit", retry_after=20.0)
    clock.advance(20.0)
    for _ in range(2):
        breaker.record_success(0.1)
    for _ in range(5):
        breaker.record_failure("server")
    assert breaker.retry_after() == 60.0


def test_retry_after_of_an_answered_past_is_forgotten(make):
    """A Retry-After that an answer has disproved does not prolong a later outage."""
    breaker = make()
    breaker.record_failure("rate_limit", retry_after=3600.0)
    breaker.record_success(0.1)
    for _ in range(5):
        breaker.record_failure("server")
    assert breaker.retry_after() == 60.0


def test_slow_calls_open_where_a_limit_is_set(make):
    """With an absolute limit, a rate of slow calls opens, and says so."""
    breaker = make(slow_call_seconds=1.0, learning_calls=1000)
    reason = reason_of(breaker)
    for _ in range(20):
        breaker.record_success(1.5)
    assert reason().statistic == "slow_call_rate"


def test_no_call_is_slow_where_no_limit_is_set(make):
    """Without an absolute limit, a steady latency is never slow, however long."""
    breaker = make()
    for _ in range(200):
        breaker.record_success(100.0)
    assert breaker.state is State.CLOSED


def test_a_long_answer_with_a_quick_first_chunk_is_not_slow(make):
    """Streams are measured against the limit at their first chunk."""
    breaker = make(slow_call_seconds=1.0)
    for _ in range(50):
        breaker.record_success(60.0, time_to_first_chunk=0.3)
    assert breaker.state is State.CLOSED
    for _ in range(50):
        breaker.record_success(60.0, time_to_first_chunk=1.3)
    assert breaker.state is State.OPEN


def test_a_stream_that_began_slowly_is_slow_once(make):
    """A stream recorded in two steps is one request and one slow call."""
    breaker = make(slow_call_seconds=1.0, learning_calls=1000)
    for _ in range(19):
        breaker.record_first_chunk(1.5)
        breaker.record_stream_end(9.0)
    assert breaker.health().request_count == 19
    assert breaker.state is State.CLOSED
    breaker.record_first_chunk(1.5)
    breaker.record_stream_end(9.0)
    breaker.record_first_chunk(1.5)
    assert breaker.state is State.OPEN


def test_slow_streams_under_way_are_no_rate_above_one(make):
    """However many slow streams have begun for each that has ended, the rate that is told is one."""
    breaker = make(slow_call_seconds=1.0, learning_calls=1000)
    reason = reason_of(breaker)
    for _ in range(200):
        breaker.record_first_chunk(1.5)
    for _ in range(20):
        breaker.record_stream_end(9.0)
    breaker.record_first_chunk(1.5)
    assert reason().statistic == "slow_call_rate"
    assert reason().value < 1.0


def test_a_time_out_is_a_failure_and_slow(make, healthy):
    """One time-out after a hundred quick answers is an anomaly of latency too."""
    breaker = make(z_score=2.0)
    reason = reason_of(breaker)
    healthy(breaker)
    breaker.record_failure("timeout", 30.0)
    assert breaker.health().error_count == 1
    assert reason().statistic == "latency"


def test_time_outs_count_as_slow_calls(make):
    """Time-outs add to the rate of slow calls, whatever they lasted."""
    breaker = make(slow_call_seconds=50.0, consecutive_failures=1000, failure_rate=0.99)
    reason = reason_of(breaker)
    for _ in range(20):
        breaker.record_failure("timeout")
    assert reason().statistic == "slow_call_rate"


def test_a_failure_that_was_quick_says_nothing_about_latency(make, healthy):
    """Errors that come at once do not make the usual latency shorter."""
    breaker = make(consecutive_failures=1000, minimum_calls=10_000)
    healthy(breaker)
    before = breaker.health().p50_latency_ms
    for _ in range(500):
        breaker.record_failure("connection", 0.001)
    healthy(breaker, 10)
    assert breaker.state is State.CLOSED
    assert breaker.health().p50_latency_ms == before


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("record", "key"),
    [
        (lambda b, s: b.record_success(s), "seconds"),
        (lambda b, s: b.record_success(1.0, time_to_first_chunk=s), "time_to_first_chunk"),
        (lambda b, s: b.record_success(1.0, seconds_per_output_token=s), "seconds_per_output_token"),
        (lambda b, s: b.record_first_chunk(s), "seconds"),
        (lambda b, s: b.record_stream_end(s), "seconds"),
        (lambda b, s: b.record_failure("server", s), "seconds"),
        (lambda b, s: b.record_failure("server", retry_after=s), "retry_after"),
        (lambda b, s: b.force_open(s), "seconds"),
    ],
)
def test_what_is_not_a_time_is_refused(make, record, key, seconds):
    """A negative or infinite time is an error that names the argument, and is not recorded."""
    breaker = make()
    with pytest.raises(ConfigError, match=key):
        record(breaker, seconds)
    assert breaker.health().request_count == 0
    assert breaker.state is State.CLOSED


def test_an_unknown_kind_is_refused(make):
    """A word that is no kind of error is an error that lists the kinds."""
    with pytest.raises(ConfigError, match="overloaded"):
        make().record_failure("sever")
