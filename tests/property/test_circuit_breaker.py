"""Whatever happens to a circuit breaker, it keeps its promises, and it never wedges."""

from __future__ import annotations

import random
from math import ceil, inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmkit_plugins import CircuitOpen
from llmkit_plugins.plugins.circuit_breaker import MOVES, CircuitBreaker, State
from llmkit_plugins.plugins.circuit_breaker.histogram import Histogram
from llmkit_plugins.testing import ManualClock

HEALTHY = 0.1
LEASE = 30.0
LATENCIES = st.sampled_from([0.0, HEALTHY, HEALTHY, 0.12, 0.5, 5.0, 1000.0])
KINDS = st.sampled_from(["server", "timeout", "overloaded", "connection", "rate_limit", "bad_request", "cancelled"])
RETRY_AFTER = st.sampled_from([None, None, 0.0, 5.0, 200.0])
PAUSES = st.sampled_from([0.0, 0.1, 1.0, 9.0, 10.0, 31.0, 200.0])


class Breaker(RuleBasedStateMachine):
    """Calls that are answered, fail, are cancelled, vanish or stream, in any order; and people who force it."""

    def __init__(self):
        super().__init__()
        self.clock = ManualClock(50.0)
        self.rng = random.Random(0)
        self.moves = []
        self.held = []
        self.deadline = -inf
        self.breaker = CircuitBreaker(
            "target",
            clock=self.clock,
            random=self.rng.random,
            listeners=[self.moves.append],
            open_seconds=10.0,
            max_open_seconds=80.0,
            consecutive_failures=3,
            rate_limit_failures=3,
            minimum_calls=5,
            learning_calls=10,
            relearn_seconds=100.0,
            half_open_requests=2,
            success_threshold=2,
            probe_lease_seconds=LEASE,
            ramp_seconds=5.0,
        )

    def taken(self, number):
        return self.held.pop(number % len(self.held))[0]

    @rule()
    def ask(self):
        before = self.breaker.available
        permit = self.breaker.acquire()
        assert (permit is not None) is before
        if permit is not None:
            self.held.append((permit, self.clock(), len(self.moves)))

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 100), seconds=LATENCIES)
    def answer(self, number, seconds):
        self.breaker.record_success(seconds, permit=self.taken(number))

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 100), seconds=LATENCIES, ends=st.booleans())
    def stream(self, number, seconds, ends):
        permit = self.taken(number)
        self.breaker.record_first_chunk(seconds, permit=permit)
        if ends:
            self.breaker.record_stream_end(seconds + 1.0, seconds_per_output_token=seconds / 10, permit=permit)
        else:
            self.breaker.record_failure("connection", permit=permit)

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 100), kind=KINDS, seconds=LATENCIES, retry_after=RETRY_AFTER)
    def fail(self, number, kind, seconds, retry_after):
        self.breaker.record_failure(kind, seconds, retry_after=retry_after, permit=self.taken(number))

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 100))
    def cancel(self, number):
        self.breaker.release(self.taken(number))

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 100))
    def vanish(self, number):
        self.taken(number)

    @rule(seconds=LATENCIES, times=st.integers(1, 12))
    def answer_unasked(self, seconds, times):
        for _ in range(times):
            self.breaker.record_success(seconds)

    @rule(kind=KINDS, retry_after=RETRY_AFTER, times=st.integers(1, 4))
    def fail_unasked(self, kind, retry_after, times):
        for _ in range(times):
            self.breaker.record_failure(kind, 1.0, retry_after=retry_after)

    @rule(seconds=LATENCIES)
    def call(self, seconds):
        admitted = self.breaker.available
        try:
            self.breaker.call(self.clock.advance, seconds)
        except CircuitOpen as refused:
            assert not admitted
            assert refused.retry_after is None or refused.retry_after > 0
        else:
            assert admitted

    @rule(seconds=PAUSES)
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([None, 0.0, 20.0]))
    def force_open(self, seconds):
        self.breaker.force_open(seconds)

    @rule()
    def force_closed(self):
        self.breaker.force_closed()

    @rule()
    def reset(self):
        self.breaker.reset()

    @invariant()
    def every_move_is_one_of_the_table(self):
        state = State.CLOSED
        for move in self.moves:
            assert move.before is state
            assert MOVES[state, move.event] is move.after
            state = move.after
        assert self.breaker.state in (state, MOVES.get((state, "waited")))

    @invariant()
    def probes_never_exceed_the_number_allowed(self):
        if self.breaker.state is State.HALF_OPEN:
            began = max(index for index, move in enumerate(self.moves, 1) if move.after is State.HALF_OPEN)
            under_way = [at for _, at, moves in self.held if moves >= began and at + LEASE > self.clock()]
            assert len(under_way) <= 2

    @invariant()
    def an_open_circuit_says_how_long_and_the_deadline_only_extends(self):
        if self.breaker.state is not State.OPEN:
            self.deadline = -inf
            return
        opened = max(index for index, move in enumerate(self.moves) if move.after is State.OPEN)
        wait = self.breaker.retry_after()
        deadline = (opened, inf if wait is None else self.clock() + wait)
        assert wait is None or wait > 0
        if self.deadline != -inf and self.deadline[0] == opened:
            assert deadline[1] >= self.deadline[1] - 1e-9
        self.deadline = deadline

    def teardown(self):
        """After healthy answers and time, the circuit is closed and stays closed, whatever was usual before."""
        breaker, clock = self.breaker, self.clock
        if breaker.retry_after() is None:
            breaker.force_closed()
        self.heal(until=clock() + 1000.0)
        moves = len(self.moves)
        self.heal(until=clock() + 200.0)
        assert breaker.state is State.CLOSED
        assert self.moves[moves:] == []

    def heal(self, until):
        while self.clock() < until:
            if (permit := self.breaker.acquire()) is None:
                self.clock.advance(self.breaker.retry_after())
            else:
                self.clock.advance(2.0)
                self.breaker.record_success(HEALTHY, permit=permit)


TestBreaker = Breaker.TestCase
TestBreaker.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@given(
    latencies=st.lists(st.floats(0.001, 1200.0), min_size=1, max_size=300),
    percents=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=5).map(sorted),
)
def test_any_percentile_is_within_five_per_cent(latencies, percents):
    """Whatever the latencies and the percentiles asked for, the histogram is within 5 % of exact."""
    histogram = Histogram(60.0, 0.0)
    for seconds in latencies:
        histogram.add(0.0, seconds)
    ranked = sorted(latencies)
    for percent, found in zip(percents, histogram.percentiles(0.0, *percents), strict=True):
        assert found == pytest.approx(ranked[max(1, ceil(percent / 100 * len(ranked))) - 1], rel=0.05)


@given(latencies=st.lists(st.floats(0.0, 1e9), max_size=400), z_score=st.floats(0.5, 5.0))
def test_no_latencies_break_the_statistics(latencies, z_score):
    """Any sequence of latencies leaves a breaker that still knows its health."""
    breaker = CircuitBreaker("target", clock=ManualClock(), z_score=z_score)
    for seconds in latencies:
        breaker.record_success(seconds)
    health = breaker.health()
    assert health.request_count == len(latencies)
    assert -1e4 < health.z_score < 1e4
