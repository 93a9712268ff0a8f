"""What the latency detector notices, and what it lets pass."""

from __future__ import annotations

import random
from math import exp, log

import pytest

from llmkit_plugins.plugins.circuit_breaker import State
from llmkit_plugins.plugins.circuit_breaker.latency_detector import BOUND, LatencyDetector


def trips(make, latencies, **options):
    """How often a breaker opens over *latencies*; it is closed by hand each time."""
    breaker, count = make(**options), 0
    for seconds in latencies:
        breaker.record_success(seconds)
        if breaker.state is not State.CLOSED:
            count += 1
            breaker.force_closed()
    return count


def log_normal(seed, answers, sigma, median=0.8):
    rng = random.Random(seed)
    return [median * exp(rng.gauss(0.0, sigma)) for _ in range(answers)]


def answers_until_open(breaker, latencies):
    for number, seconds in enumerate(latencies, 1):
        breaker.record_success(seconds)
        if breaker.state is not State.CLOSED:
            return number
    return None


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(20))
def test_one_answer_of_five_seconds_after_a_hundred_of_100_ms(make, seed, sigma):
    """A hundred answers near 100 ms do not open at z 2.0, and one of 5 s then does, with the statistic that did it."""
    breaker = make(z_score=2.0)
    told = []
    breaker.listeners.append(told.append)
    for seconds in log_normal(seed, 100, sigma, 0.1):
        breaker.record_success(seconds)
    assert breaker.state is State.CLOSED
    breaker.record_success(5.0)
    assert breaker.state is State.OPEN
    assert (told[0].reason.statistic, told[0].reason.threshold) == ("latency", BOUND)
    assert told[0].reason.value > BOUND
    assert breaker.health().z_score > 2.0


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_heavy_tails_do_not_open_the_production_preset(make, sigma):
    """At most one false trip in 10,000 log-normal answers, over seeds."""
    counts = [trips(make, log_normal(seed, 10_000, sigma), preset="production") for seed in range(10)]
    assert sum(counts) <= len(counts)


def test_short_and_long_answers_mixed_are_no_anomaly(make):
    """Where a third of the answers take ten times as long as the others, that is usual."""
    for seed in range(5):
        rng = random.Random(seed)
        latencies = [0.5 * exp(rng.gauss(0, 0.3)) * (10.0 if rng.random() < 0.33 else 1.0) for _ in range(5000)]
        assert trips(make, latencies) == 0


@pytest.mark.parametrize("sigma", [0.0, 0.1])
@pytest.mark.parametrize("slower", [3.0, 5.0])
def test_one_slow_answer_is_none(make, sigma, slower):
    """One that took four or six times as long as usual does not open the circuit; a second one soon after does."""
    for seed in range(20):
        breaker = make()
        assert answers_until_open(breaker, [*log_normal(seed, 100, sigma), slower]) is None
        usual = log_normal(100 + seed, 40, sigma)
        assert answers_until_open(breaker, [*usual, slower, *usual]) is None
        assert answers_until_open(breaker, [slower, *usual[:1], slower]) == 3


def test_usual_stragglers_do_not_open(make):
    """Where every two-hundredth answer takes twenty times as long, that is usual."""
    rng = random.Random(7)
    latencies = [0.5 * exp(rng.gauss(0, 0.3)) * (20.0 if number % 200 == 199 else 1.0) for number in range(20_000)]
    assert trips(make, latencies) <= 2


@pytest.mark.parametrize(("sigma", "answers"), [(0.1, 3), (0.3, 8), (0.5, 30)])
def test_three_times_the_latency_is_noticed(make, sigma, answers):
    """A lasting jump to three times the latency opens the production preset within a few answers."""
    for seed in range(20):
        breaker = make()
        assert answers_until_open(breaker, log_normal(seed, 300, sigma)) is None
        assert answers_until_open(breaker, log_normal(1000 + seed, 100, sigma, 2.4)) <= answers


def test_a_lower_z_score_notices_earlier():
    """For the same shift, the aggressive preset needs no more answers than the conservative one."""
    needed = {}
    for z_score in (1.5, 2.5, 3.0):
        detector = LatencyDetector(z_score, 30, 0.001)
        for seconds in log_normal(3, 500, 0.4):
            assert not detector.exceeded(log(seconds))
        needed[z_score] = next(n for n, s in enumerate(log_normal(4, 500, 0.4, 1.8), 1) if detector.exceeded(log(s)))
    assert needed[1.5] <= needed[2.5] <= needed[3.0]


def drifting(make, clock, seconds, doubling, calls_per_second=10):
    """How many times the latency had grown when the breaker opened, or None, while it doubles every so many seconds."""
    breaker, rng = make(), random.Random(11)
    for number in range(int((300 + seconds) * calls_per_second)):
        clock.advance(1 / calls_per_second)
        grown = 2 ** (max(0.0, number / calls_per_second - 300) / doubling)
        breaker.record_success(grown * 0.8 * exp(rng.gauss(0, 0.3)))
        if breaker.state is not State.CLOSED:
            return grown
    return None


@pytest.mark.parametrize("calls_per_second", [2, 10, 50])
def test_a_drift_is_noticed_however_slowly_it_creeps(make, clock, calls_per_second):
    """Latency that doubles each minute is noticed before it is three times what it was, also where traffic is dense."""
    assert 1.0 < drifting(make, clock, 300.0, 60.0, calls_per_second) < 3.0


def test_the_way_of_the_day_is_followed(make, clock):
    """Latency that doubles within two hours opens nothing."""
    assert drifting(make, clock, 7200.0, 7200.0, 2) is None


def test_getting_faster_is_no_anomaly(make):
    """A latency that falls to a tenth opens nothing."""
    breaker = make()
    assert answers_until_open(breaker, log_normal(1, 300, 0.2) + log_normal(2, 300, 0.2, 0.08)) is None


def test_below_the_floor_all_latencies_are_the_same(make):
    """A jump from 1 ms to 40 ms is no matter, with a floor of 50 ms."""
    breaker = make(latency_floor_seconds=0.05)
    assert answers_until_open(breaker, [0.001] * 200 + [0.04] * 200) is None


def test_nothing_is_unusual_before_it_is_known_what_is_usual(make):
    """The first learning_calls answers open nothing, whatever they are."""
    breaker = make(learning_calls=50)
    rng = random.Random(5)
    assert answers_until_open(breaker, [exp(rng.uniform(-5, 5)) for _ in range(50)]) is None
    assert breaker.health().z_score == 0.0


def test_anomalies_are_not_learned(make, healthy, clock):
    """After any number of anomalies that were seen while open and in probes, one more opens as the first did."""
    breaker = make(z_score=2.0)
    healthy(breaker)
    breaker.record_success(5.0)
    for _ in range(1000):
        breaker.record_success(5.0)
    clock.advance(60.0)
    for _ in range(2):
        breaker.record_success(0.1)
    assert breaker.state is State.CLOSED
    breaker.record_success(5.0)
    assert breaker.state is State.OPEN


def test_a_slow_probe_opens_again(make, healthy, clock):
    """A probe that answers, but as slowly as what opened the circuit, does not close it."""
    breaker = make()
    told = []
    healthy(breaker)
    breaker.record_success(5.0)
    clock.advance(60.0)
    breaker.listeners.append(told.append)
    breaker.record_success(4.0)
    assert breaker.state is State.OPEN
    assert told[-1].reason.statistic == "latency"
    assert told[-1].reason.value > told[-1].reason.threshold == 2.5


@pytest.mark.parametrize(("opened_by", "after"), [("latency", State.OPEN), ("failures", State.CLOSED)])
def test_a_probe_is_judged_by_what_opened_the_circuit(make, healthy, clock, opened_by, after):
    """Probes twice as slow as usual open a circuit again that was slow, not one that failed."""
    breaker = make()
    healthy(breaker)
    if opened_by == "latency":
        breaker.record_success(5.0)
    for _ in range(5 if opened_by == "failures" else 0):
        breaker.record_failure("server")
    assert breaker.state is State.OPEN
    clock.advance(60.0)
    breaker.record_success(0.2)
    breaker.record_success(0.2)
    assert breaker.state is after


def test_a_probe_that_is_far_off_opens_again_whatever_opened_the_circuit(make, healthy, clock):
    """After an outage a probe of fifty times the usual latency is no recovery, and then latency is the suspect."""
    breaker = make()
    healthy(breaker)
    for _ in range(5):
        breaker.record_failure("server")
    for seconds in (5.0, 0.2):
        clock.advance(breaker.retry_after())
        breaker.record_success(seconds)
        assert breaker.state is State.OPEN


def test_one_far_probe_long_after_an_anomaly_is_no_new_normal(make, healthy, clock):
    """An anomaly of yesterday does not make a slow probe of today the usual."""
    breaker = make(relearn_seconds=600.0)
    healthy(breaker)
    breaker.record_success(5.0)
    clock.advance(60.0)
    healthy(breaker, 10)
    clock.advance(86_400.0)
    healthy(breaker, 10)
    for _ in range(5):
        breaker.record_failure("server")
    clock.advance(60.0)
    breaker.record_success(5.0)
    assert breaker.state is State.OPEN


def test_a_lasting_new_normal_is_accepted(make, healthy, clock):
    """After relearn_seconds of slow probes the new latency is the usual one: the circuit closes and stays closed."""
    breaker = make(relearn_seconds=600.0)
    healthy(breaker)
    breaker.record_success(5.0)
    opened = clock()
    while breaker.state is not State.CLOSED:
        assert clock() - opened < 1300.0
        clock.advance(breaker.retry_after())
        breaker.record_success(5.0)
    assert clock() - opened >= 600.0
    healthy(breaker, 500, 5.0)
    assert breaker.state is State.CLOSED
    breaker.record_success(250.0)
    assert breaker.state is State.OPEN


@pytest.mark.parametrize("seconds", [0.15, 0.165, 0.2])
def test_a_new_normal_is_accepted_though_it_passes_its_probes(make, healthy, clock, seconds):
    """A shift that single probes do not show closes and opens again and again, and is accepted in time all the same."""
    told = []
    breaker = make(relearn_seconds=600.0, listeners=[told.append])
    healthy(breaker, 300)
    started = clock()
    while clock() - started < 5000.0:
        if breaker.acquire() is None:
            clock.advance(breaker.retry_after())
        else:
            clock.advance(0.5)
            breaker.record_success(seconds)
    assert 600.0 <= told[-1].at - started < 1000.0
    assert breaker.state is State.CLOSED


def test_nothing_is_learned_while_an_anomaly_is_suspected():
    """While the sum of deviations is above half of its bound, no number of odd answers becomes the usual."""
    detector = LatencyDetector(2.0, 30, 0.001)
    for seconds in log_normal(1, 500, 0.3):
        detector.exceeded(log(seconds))
    usual, odd = log(0.8), log(1.2)
    while detector.total <= BOUND / 2:
        detector.exceeded(usual + 1.2)
    before = detector.judge(usual)
    for _ in range(2000):
        detector.exceeded(odd if detector.total < 0.75 * BOUND else usual)
        assert BOUND / 2 < detector.total <= BOUND
    assert detector.judge(usual) == before


def test_an_episode_that_is_over_is_not_half_a_new_normal(make, healthy, clock):
    """Two short slow episodes with health between them are not one long one."""
    breaker = make(relearn_seconds=600.0)
    for _ in range(2):
        healthy(breaker)
        clock.advance(700.0)
        healthy(breaker)
        breaker.record_success(5.0)
        assert breaker.state is State.OPEN
        clock.advance(breaker.retry_after())
        for _ in range(2):
            breaker.record_success(0.1)
        assert breaker.state is State.CLOSED


def test_long_answers_are_not_slow_answers(make):
    """Where first chunk and time per token are known, the whole latency is not compared."""
    breaker = make()
    for number in range(300):
        tokens = 10 if number < 200 else 2000
        breaker.record_success(
            0.3 + tokens * 0.02, time_to_first_chunk=0.3, seconds_per_output_token=0.02 * (1 + number % 3 / 10)
        )
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize(
    ("slow", "statistic"),
    [
        ({"time_to_first_chunk": 6.0, "seconds_per_output_token": 0.02}, "time_to_first_chunk"),
        ({"time_to_first_chunk": 0.3, "seconds_per_output_token": 0.4}, "seconds_per_output_token"),
        ({"seconds_per_output_token": 0.4}, "seconds_per_output_token"),
    ],
)
def test_each_part_of_a_latency_is_watched(make, slow, statistic):
    """A late first chunk opens, and so do slow tokens, each by its own name."""
    breaker = make()
    told = []
    breaker.listeners.append(told.append)
    for _ in range(100):
        breaker.record_success(3.0, time_to_first_chunk=0.3, seconds_per_output_token=0.02)
    breaker.record_success(3.0, **slow)
    assert breaker.state is State.OPEN
    assert told[0].reason.statistic == statistic


def test_streams_and_whole_answers_are_not_compared(make):
    """Quick first chunks and long whole answers at the same target are two populations."""
    breaker = make()
    for _ in range(200):
        breaker.record_success(9.0, time_to_first_chunk=0.3)
        breaker.record_success(9.0)
    assert breaker.state is State.CLOSED


def test_a_stream_that_times_out_is_late_with_its_first_chunk(make):
    """A time-out where first chunks are known counts as one that came so late."""
    breaker = make()
    told = []
    breaker.listeners.append(told.append)
    for _ in range(100):
        breaker.record_first_chunk(0.3)
        breaker.record_stream_end(5.0)
    breaker.record_failure("timeout", 30.0)
    assert told[0].reason.statistic == "time_to_first_chunk"


def test_a_late_first_chunk_opens_before_the_stream_ends(make):
    """A stream counts when its first chunk arrives."""
    breaker = make()
    for _ in range(100):
        breaker.record_first_chunk(0.3)
        breaker.record_stream_end(5.0, seconds_per_output_token=0.02)
    breaker.record_first_chunk(20.0)
    assert breaker.state is State.OPEN
    assert breaker.health().request_count == 100


def test_slow_tokens_open_when_the_stream_ends(make):
    """A stream counts again when it ends."""
    breaker = make()
    for _ in range(100):
        breaker.record_first_chunk(0.3)
        breaker.record_stream_end(5.0, seconds_per_output_token=0.02)
    breaker.record_first_chunk(0.3)
    assert breaker.state is State.CLOSED
    breaker.record_stream_end(90.0, seconds_per_output_token=0.5)
    assert breaker.state is State.OPEN
