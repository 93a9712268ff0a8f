"""How long a circuit stays open, what its probes do, and how traffic comes back."""

from __future__ import annotations

import pytest

from llmkit_plugins.plugins.circuit_breaker import State


def trip(breaker, **options):
    for _ in range(5):
        breaker.record_failure("server", **options)
    assert breaker.state is State.OPEN


def recover(breaker, clock):
    clock.advance(breaker.retry_after())
    for _ in range(breaker.config.success_threshold):
        breaker.record_success(0.1)
    assert breaker.state is State.CLOSED


def test_the_open_time_doubles_with_each_failed_probe_up_to_the_cap(make, clock):
    """60, 120, 240, 480, 600, 600 … seconds."""
    breaker = make(open_seconds=60.0, max_open_seconds=600.0)
    trip(breaker)
    waits = []
    for _ in range(40):
        waits.append(breaker.retry_after())
        clock.advance(waits[-1])
        breaker.record_failure("server")
    assert waits == [60.0, 120.0, 240.0, 480.0, *[600.0] * 36]


def test_health_shortens_the_open_time_again(make, clock):
    """Each open_seconds of health takes one doubling back."""
    breaker = make(open_seconds=60.0)
    trip(breaker)
    for _ in range(3):
        clock.advance(breaker.retry_after())
        breaker.record_failure("server")
    recover(breaker, clock)
    clock.advance(121.0)
    trip(breaker)
    assert breaker.retry_after() == 240.0
    recover(breaker, clock)
    clock.advance(3600.0)
    trip(breaker)
    assert breaker.retry_after() == 60.0


def test_a_probe_that_meets_a_429_opens_for_as_long_as_it_says(in_state, clock):
    """Capacity is no matter of health: the open time is not doubled for it, now or the next time."""
    breaker = in_state(State.HALF_OPEN, open_seconds=60.0)
    breaker.record_failure("rate_limit", retry_after=7.0)
    assert breaker.retry_after() == 7.0
    clock.advance(7.0)
    breaker.record_failure("server")
    assert breaker.retry_after() == 120.0


def test_a_probe_that_is_slow_in_absolute_terms_is_no_good_one(in_state):
    """Where there is a limit, a probe beyond it opens the circuit again, whatever is usual."""
    told = []
    breaker = in_state(State.HALF_OPEN, slow_call_seconds=1.0, listeners=[told.append])
    breaker.record_success(1.5)
    assert breaker.state is State.OPEN
    assert (told[-1].reason.statistic, told[-1].reason.value) == ("slow_call_seconds", 1.5)


@pytest.mark.parametrize(("number", "seconds"), [(0.0, 60.0), (0.5, 45.0), (1.0, 30.0)])
def test_jitter_takes_up_to_a_half(make, number, seconds):
    """The open time is between a half and the whole of what it is without jitter."""
    breaker = make(random=lambda: number)
    trip(breaker)
    assert breaker.retry_after() == seconds


def test_it_stays_open_for_retry_after_at_least(make):
    """A longer Retry-After than the open time is kept, a shorter one changes nothing."""
    longer, shorter = make(random=lambda: 1.0), make()
    trip(longer, retry_after=500.0)
    trip(shorter, retry_after=5.0)
    assert (longer.retry_after(), shorter.retry_after()) == (500.0, 60.0)


def test_late_failures_extend_the_deadline_and_never_shorten_it(make, clock):
    """What comes back while the circuit is open can only make it longer."""
    breaker = make()
    permits = [breaker.acquire() for _ in range(3)]
    trip(breaker)
    clock.advance(10.0)
    breaker.record_failure("overloaded", retry_after=200.0, permit=permits[0])
    assert breaker.retry_after() == 200.0
    breaker.record_failure("overloaded", retry_after=20.0, permit=permits[1])
    breaker.record_failure("overloaded", permit=permits[2])
    assert breaker.retry_after() == 200.0


def test_the_retry_after_of_an_error_is_read_from_it(make):
    """An error that carries retry_after is understood without being told."""

    class Overloaded(Exception):
        kind, retry_after = "overloaded", 300

    breaker = make()
    for _ in range(5):
        breaker.record_failure(Overloaded())
    assert breaker.retry_after() == 300.0


@pytest.mark.parametrize("asked", [float("nan"), float("inf"), -5.0, "soon", None])
def test_a_senseless_retry_after_of_an_error_is_overlooked(make, asked):
    """What an error carries under that name, and is no time, changes nothing."""

    class Overloaded(Exception):
        kind, retry_after = "overloaded", asked

    breaker = make()
    for _ in range(5):
        breaker.record_failure(Overloaded())
    assert breaker.retry_after() == 60.0


def test_half_open_admits_so_many_probes_at_once(in_state):
    """Three callers pass, the others are told when the next place is free at the latest."""
    breaker = in_state(State.HALF_OPEN, half_open_requests=3, probe_lease_seconds=45.0)
    permits = [breaker.acquire() for _ in range(10)]
    assert [permit is not None for permit in permits] == [True] * 3 + [False] * 7
    assert not breaker.available
    assert breaker.retry_after() == 45.0


def test_a_probe_that_is_given_back_makes_room(in_state):
    """A cancelled probe counts neither way, and another caller may try at once."""
    breaker = in_state(State.HALF_OPEN, half_open_requests=1)
    permit = breaker.acquire()
    assert breaker.acquire() is None
    breaker.release(permit)
    assert breaker.state is State.HALF_OPEN
    assert breaker.acquire() is not None


def test_a_probe_with_an_error_that_is_the_callers_makes_room(in_state):
    """A probe that ends in a bad request does not hold its place for ever."""
    breaker = in_state(State.HALF_OPEN, half_open_requests=1)
    breaker.record_failure("bad_request", permit=breaker.acquire())
    assert breaker.state is State.HALF_OPEN
    assert breaker.acquire() is not None


def test_a_probe_that_vanishes_comes_back_after_its_lease(in_state, clock):
    """A probe nobody hears of again blocks its place no longer than its lease."""
    breaker = in_state(State.HALF_OPEN, half_open_requests=1, probe_lease_seconds=30.0)
    breaker.acquire()
    clock.advance(29.0)
    assert breaker.acquire() is None
    assert breaker.retry_after() == 1.0
    clock.advance(1.0)
    assert breaker.acquire() is not None


def test_an_answer_that_outlasts_its_lease_still_counts(in_state, clock):
    """Where every answer takes longer than the lease, the circuit closes all the same."""
    breaker = in_state(State.HALF_OPEN, probe_lease_seconds=30.0)
    permits = [breaker.acquire() for _ in range(2)]
    clock.advance(90.0)
    for permit in permits:
        breaker.record_success(90.0, permit=permit)
    assert breaker.state is State.CLOSED


def test_a_failure_that_outlasts_its_lease_still_counts(in_state, clock):
    """A probe that fails after its lease opens the circuit again."""
    breaker = in_state(State.HALF_OPEN, probe_lease_seconds=30.0)
    permit = breaker.acquire()
    clock.advance(90.0)
    breaker.record_failure("timeout", 90.0, permit=permit)
    assert breaker.state is State.OPEN


def test_one_stream_is_one_good_probe(in_state):
    """The first chunk of a probe counts, its end does not count again."""
    breaker = in_state(State.HALF_OPEN, success_threshold=2)
    permit = breaker.acquire()
    breaker.record_first_chunk(0.2, permit=permit)
    breaker.record_stream_end(9.0, permit=permit)
    assert breaker.state is State.HALF_OPEN
    breaker.record_first_chunk(0.2, permit=breaker.acquire())
    assert breaker.state is State.CLOSED


def test_a_probe_that_breaks_off_after_its_first_chunk_opens_again(in_state):
    """A stream that fails half-way is no good probe after all."""
    breaker = in_state(State.HALF_OPEN)
    permit = breaker.acquire()
    breaker.record_first_chunk(0.2, permit=permit)
    breaker.record_failure("connection", permit=permit)
    assert breaker.state is State.OPEN


@pytest.mark.parametrize("bad", [False, True])
def test_calls_from_before_the_opening_decide_nothing(make, healthy, clock, bad):
    """Answers to calls that were under way when the circuit opened neither close it nor open it again."""
    breaker = make()
    healthy(breaker)
    permits = [breaker.acquire() for _ in range(20)]
    trip(breaker)
    clock.advance(60.0)
    assert breaker.state is State.HALF_OPEN
    for permit in permits[:10]:
        if bad:
            breaker.record_failure("timeout", 60.0, permit=permit)
        else:
            breaker.record_success(60.0, permit=permit)
    assert breaker.state is State.HALF_OPEN
    for _ in range(2):
        breaker.record_success(0.1, permit=breaker.acquire())
    for permit in permits[10:]:
        breaker.record_failure("timeout", 60.0, permit=permit)
    assert breaker.state is State.CLOSED
    assert breaker.health().error_count == 0


def test_traffic_is_ramped_up(in_state, clock):
    """After closing, one caller more may be under way with each answer, until the ramp is over."""
    breaker = in_state(State.HALF_OPEN, half_open_requests=2, success_threshold=2, ramp_seconds=10.0)
    for permit in [breaker.acquire() for _ in range(2)]:
        breaker.record_success(0.1, permit=permit)
    assert breaker.state is State.CLOSED
    at_once = []
    for _ in range(4):
        permits = []
        while permit := breaker.acquire():
            permits.append(permit)
        at_once.append(len(permits))
        for permit in permits:
            breaker.record_success(0.1, permit=permit)
    assert at_once == [2, 4, 8, 16]
    clock.advance(10.0)
    assert all(breaker.acquire() for _ in range(1000))


def test_a_refusal_in_the_ramp_says_when_it_is_over(in_state):
    """Who is refused in a ramp may come back when it ends at the latest."""
    breaker = in_state(State.HALF_OPEN, half_open_requests=1, success_threshold=1, ramp_seconds=10.0)
    breaker.record_success(0.1, permit=breaker.acquire())
    assert breaker.acquire() is not None
    assert breaker.acquire() is None
    assert breaker.retry_after() == 10.0


def test_without_a_ramp_everybody_passes_at_once(in_state):
    """ramp_seconds = 0 lets all traffic back."""
    breaker = in_state(State.HALF_OPEN, ramp_seconds=0.0)
    for _ in range(2):
        breaker.record_success(0.1)
    assert all(breaker.acquire() for _ in range(100))


def test_a_failing_ramp_opens_again(in_state):
    """Five failures in the ramp open the circuit, for twice as long as before."""
    breaker = in_state(State.HALF_OPEN)
    for _ in range(2):
        breaker.record_success(0.1)
    for _ in range(5):
        breaker.record_failure("server", permit=breaker.acquire())
    assert breaker.state is State.OPEN
    assert breaker.retry_after() == 120.0


def test_failures_from_before_are_forgotten_on_closing(in_state):
    """What opened the circuit does not count towards opening it again."""
    breaker = in_state(State.HALF_OPEN)
    for _ in range(2):
        breaker.record_success(0.1)
    for _ in range(4):
        breaker.record_failure("server")
    assert breaker.state is State.CLOSED
    assert breaker.health().error_count == 4


def test_force_open_holds_until_somebody_closes(make, clock):
    """A circuit that was opened by hand stays open, and nobody knows until when."""
    breaker = make()
    breaker.force_open()
    clock.advance(1e6)
    breaker.record_success(0.1)
    breaker.force_open(5.0)
    clock.advance(6.0)
    assert breaker.state is State.OPEN
    assert breaker.retry_after() is None
    breaker.force_closed()
    assert breaker.acquire() is not None


def test_force_open_for_a_while_ends_by_itself(make, clock):
    """A circuit that was opened for a while half-opens after it."""
    breaker = make()
    breaker.force_open(30.0)
    assert breaker.retry_after() == 30.0
    clock.advance(30.0)
    assert breaker.state is State.HALF_OPEN


def test_force_closed_keeps_watching(in_state):
    """A circuit that was closed by hand has no ramp, forgets the outage, and opens again when it must, for longer."""
    breaker = in_state(State.OPEN)
    breaker.force_closed()
    assert all(breaker.acquire() for _ in range(100))
    trip(breaker)
    assert breaker.retry_after() == 120.0


def test_reset_forgets_everything(make, healthy, clock):
    """After a reset there is no past: no counts, no usual latency, no doubling, no calls under way."""
    breaker = make()
    healthy(breaker)
    trip(breaker)
    permit = breaker.acquire()
    breaker.reset()
    health = breaker.health()
    assert (health.request_count, health.error_count, health.mean_latency_ms, health.z_score) == (0, 0, None, 0.0)
    breaker.record_success(50.0)
    assert breaker.state is State.CLOSED
    assert permit is None
    trip(breaker)
    assert breaker.retry_after() == 60.0


def test_calls_under_way_at_a_reset_count_no_more(make):
    """What began before a reset says nothing after it."""
    breaker = make()
    permit = breaker.acquire()
    breaker.reset()
    for _ in range(10):
        breaker.record_failure("server", permit=permit)
    assert breaker.state is State.CLOSED
