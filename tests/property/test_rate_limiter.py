"""Properties of the rate limiter, found true by hypothesis or not at all."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from llmkit_plugins import Call, RateLimited, Target
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiter, TokenBucket
from llmkit_plugins.testing import ManualClock

RATES = st.floats(1e-3, 1e4)
CLOCKS = st.floats(0, 2e9)


@settings(deadline=None)
@given(rate=RATES, burst=st.integers(1, 200), now=CLOCKS)
def test_a_full_burst_is_always_admitted(rate, burst, now):
    """Whatever the rate and the clock, a rested bucket admits exactly its burst at once."""
    assume(rate * burst < 4e6)
    bucket = TokenBucket(rate, burst, clock=ManualClock(now))
    assert [bucket.check_and_consume() for _ in range(burst + 1)] == [True] * burst + [False]


@settings(deadline=None)
@given(rate=RATES, burst=st.integers(1, 50), now=CLOCKS, rests=st.lists(st.floats(0, 5), max_size=50))
def test_over_any_history_no_more_than_burst_and_rate_is_admitted(rate, burst, now, rests):
    """Between any two moments at most burst + rate x time is admitted."""
    clock = ManualClock(now)
    bucket = TokenBucket(rate, burst, clock=clock)
    admitted = []
    for rest in [0.0, *rests]:
        while bucket.check_and_consume():
            admitted.append(clock())
        clock.advance(rest)
    # From the i-th to the k-th there are k - i + 1: k + 1 - rate x time(k) may exceed i - rate x time(i) by the burst.
    rounding = min(0.5, 1e-3 + rate * (burst + 4) * 2.5e-7)
    lowest = 0.0
    for number, moment in enumerate(admitted):
        ahead = number - rate * (moment - admitted[0])
        lowest = min(lowest, ahead)
        assert ahead + 1 - lowest <= burst + rounding


@settings(deadline=None)
@given(rate=st.floats(1e-3, 100), burst=st.floats(1, 100), now=CLOCKS, costs=st.lists(st.floats(0.1, 1), max_size=50))
def test_the_wait_it_names_is_the_wait_it_takes(rate, burst, now, costs):
    """After the seconds it names a refused cost is admitted, and a little before it is not."""
    clock = ManualClock(now)
    bucket = TokenBucket(rate, burst, clock=clock)
    while bucket.check_and_consume(burst):
        pass
    for cost in costs:
        seconds = bucket.retry_after(cost)
        assert 0 < seconds <= cost / rate + 1e-3
        early = seconds - 0.01 * cost / rate - 1e-4
        if early > 0:
            clock.advance(early)
            assert not bucket.check_and_consume(cost)
            clock.advance(seconds - early)
        else:
            clock.advance(seconds)
        assert bucket.check_and_consume(cost)


LIMITS = [
    Limit(requests="2/s", burst=4, per=("user",)),
    Limit(requests="3/s", per=("provider",)),
    Limit(requests="1/s", burst=3, per=("user", "model")),
    Limit(tokens="200/s", burst=900, per=("user",)),
    Limit(output_tokens="300/s", burst=800, per=("target",)),
    Limit(cost="1 USD/s", burst=3, per=("provider",)),
]
TARGETS = [Target("a", "p", "m", input_price=1.0, output_price=1e4), Target("b", "p", "n")]
LEFT = {
    "x-ratelimit-limit-requests": "10",
    "x-ratelimit-remaining-requests": "2",
    "x-ratelimit-reset-requests": "4s",
    "x-ratelimit-limit-tokens": "2000",
    "x-ratelimit-remaining-tokens": "900",
    "x-ratelimit-reset-tokens": "6s",
}
STEPS = st.tuples(
    st.sampled_from(["ann", "bob", None]),
    st.sampled_from(TARGETS),
    st.integers(0, 4000),
    st.sampled_from([None, 10, 200]),
    st.sampled_from(["settle", "refund", "hear", "nothing"]),
    st.sampled_from([0.0, 0.25, 1.0]),
)


@settings(deadline=None)
@given(
    limits=st.sets(st.integers(0, len(LIMITS) - 1)).map(lambda chosen: [LIMITS[number] for number in chosen]),
    on_limit=st.sampled_from(["reject", "wait", "shadow"]),
    steps=st.lists(STEPS, max_size=30),
)
def test_the_short_way_ends_where_the_long_one_does(limits, on_limit, steps):
    """What is taken in one step, and what is looked at without a ticket, is what would be found by looking closer."""
    clock = ManualClock(1000.0)
    limiters = [RateLimiter(limits, on_limit=on_limit, max_wait_seconds=2.0, clock=clock) for _ in range(2)]
    for phase in (limiters[1]._request, limiters[1]._attempt):
        phase.admit, phase.has_room = None, lambda *_: False

    def told(over):
        return over and (over.limit, over.key, over.retry_after and round(over.retry_after, 6))

    def story(limiter, user, target, chars, most, then):
        call = Call("x" * chars, user=user, params={} if most is None else {"max_tokens": most})
        yield [told(over) for over in limiter.outlooks(call, TARGETS)]
        for take in (lambda: limiter.request(call), lambda: limiter.attempt(call, target)):
            try:
                ticket = take()
            except RateLimited as over:
                yield told(over)
                return
            yield told(ticket.over), round(ticket.wait, 6), ticket.keys, dict(ticket.amounts)
            if then == "settle" and not ticket.wait:
                ticket.settle(chars // 5, 90, 0.5)
            elif then == "refund":
                ticket.refund()
            elif then == "hear":
                ticket.answered(LEFT)

    for *step, seconds in steps:
        clock.advance(seconds)
        short, long = (list(story(limiter, *step)) for limiter in limiters)
        assert short == long


class Tokens:
    """A token bucket as one would explain it, in exact numbers, with those who wait for it standing in line."""

    def __init__(self, rate: int, burst: int) -> None:
        self.rate, self.burst, self.now = Fraction(rate), Fraction(burst), Fraction(0)
        self.tokens = self.burst
        self.line: list[tuple[object, Fraction]] = []
        self.passed: dict[object, Fraction] = {}

    def advance(self, to: Fraction) -> None:
        while self.line:
            who, cost = self.line[0]
            ready = self.now + max(Fraction(0), (cost - self.tokens) / self.rate)
            if ready > to:
                break
            self._refill(ready)
            self.tokens -= cost
            self.passed[who] = ready
            self.line.pop(0)
        self._refill(to)

    def _refill(self, to: Fraction) -> None:
        self.tokens = min(max(self.burst, self.tokens), self.tokens + (to - self.now) * self.rate)
        self.now = to

    def wait(self, cost: Fraction, who: object = None) -> Fraction:
        """How long *who*, or a newcomer, waits for *cost*."""
        before = Fraction(0)
        for other, others_cost in self.line:
            before += others_cost
            if other is who:
                return (before - self.tokens) / self.rate
        return Fraction(0) if who in self.passed else max(Fraction(0), (before + cost - self.tokens) / self.rate)

    def take(self, cost: Fraction, who: object) -> None:
        self.line.append((who, cost))
        self.advance(self.now)

    def give_back(self, cost: Fraction, who: object) -> None:
        if any(other is who for other, _ in self.line):
            self.line = [entry for entry in self.line if entry[0] is not who]
        else:
            self.tokens += cost
        self.advance(self.now)
        self.tokens = min(self.tokens, self.burst)
        self.advance(self.now)

    def charge(self, cost: Fraction) -> None:
        self.tokens -= cost


USERS = st.sampled_from(["ann", "bob"])
MODELS = st.sampled_from(["m", "n"])
TOKENS = st.integers(0, 64)
# Multiples of 1/64 and rates that are powers of two: floats are exact, so that the two can be compared to the last bit.
SECONDS = st.integers(0, 640).map(lambda ticks: Fraction(ticks, 64))

PER_MODEL, PER_USER, TOKENS_PER_USER = "requests 4/s per model", "requests 1/s per user", "tokens 16/s per user"


class AgainstTheModel(RuleBasedStateMachine):
    """Every call is told the same by the limiter and by the plain model: admitted, refused, or how long to wait."""

    on_limit = "reject"
    patience = 20.0
    counts_tokens = True
    tickets = Bundle("tickets")

    @initialize()
    def begin(self):
        self.clock = ManualClock()
        limits = [
            Limit(requests="4/s", per=("model",)),
            Limit(requests="1/s", burst=4, per=("user",)),
        ]
        if self.counts_tokens:
            limits.append(Limit(tokens="16/s", burst=64, per=("user",)))
        self.limiter = RateLimiter(limits, on_limit=self.on_limit, max_wait_seconds=self.patience, clock=self.clock)
        self.buckets: dict[tuple[str, str], Tokens] = {}
        self.charged, self.came = {}, {}

    def needs(self, model, user, tokens):
        wanted = {(PER_MODEL, model): (4, 4, 1), (PER_USER, user): (1, 4, 1)}
        if self.counts_tokens:
            wanted[TOKENS_PER_USER, user] = (16, 64, tokens)
        for key, (rate, burst, _) in wanted.items():
            if key not in self.buckets:
                self.buckets[key] = Tokens(rate, burst)
                self.buckets[key].advance(Fraction(self.clock()))
        return {key: Fraction(cost) for key, (_, _, cost) in wanted.items()}

    @rule(target=tickets, model=MODELS, user=USERS, tokens=TOKENS)
    def call(self, model, user, tokens):
        needs = self.needs(model, user, tokens)
        waits = {key: self.buckets[key].wait(cost) for key, cost in needs.items()}
        longest = max(waits.values())
        try:
            ticket = self.limiter.acquire(model=model, user=user, input_tokens=tokens)
        except RateLimited as over:
            assert longest > (self.patience if self.on_limit == "wait" else 0)
            assert over.retry_after == pytest.approx(float(longest), abs=1e-4)
            assert waits[over.limit, over.key] == longest
            return None
        assert longest <= (self.patience if self.on_limit == "wait" else 0)
        assert ticket.wait == pytest.approx(float(longest), abs=1e-4)
        for key, cost in needs.items():
            self.buckets[key].take(cost, ticket)
        self.charged[ticket], self.came[ticket] = needs, self.clock()
        return ticket

    @rule(seconds=SECONDS)
    def time_passes(self, seconds):
        self.clock.advance(float(seconds))
        for bucket in self.buckets.values():
            bucket.advance(Fraction(self.clock()))

    @rule(ticket=consumes(tickets))
    def give_back(self, ticket):
        if ticket in self.charged:
            ticket.refund()
            for key, cost in self.charged.pop(ticket).items():
                self.buckets[key].give_back(cost, ticket)

    @rule(ticket=consumes(tickets), used=TOKENS)
    def settle(self, ticket, used):
        if ticket not in self.charged or ticket.wait:
            return
        ticket.settle(used, 0)
        for key, cost in self.charged.pop(ticket).items():
            if key[0] == TOKENS_PER_USER and used > cost:
                self.buckets[key].charge(used - cost)
            elif key[0] == TOKENS_PER_USER:
                self.buckets[key].give_back(cost - used, ticket)

    @invariant()
    def all_are_told_how_long(self):
        for ticket, needs in list(getattr(self, "charged", {}).items()):
            expected = max(self.buckets[key].wait(cost, ticket) for key, cost in needs.items())
            if not expected and not ticket.queueing:
                continue
            try:
                assert ticket.wait == pytest.approx(float(expected), abs=1e-4)
            except RateLimited:
                # Others used more than they were expected to, and so it took longer than this one would wait.
                assert expected
                assert self.clock() >= self.came[ticket] + self.patience
                for key, cost in self.charged.pop(ticket).items():
                    self.buckets[key].give_back(cost, ticket)


class AgainstTheModelInLine(AgainstTheModel):
    """The same where those over the limit wait their turn."""

    on_limit = "wait"
    patience = 5.0


QUEUE_STEPS = st.tuples(
    st.sampled_from(["come", "come", "look", "look", "look", "pass", "pass", "leave", "end"]),
    st.integers(0, 9),
    st.sampled_from(["ann", "bob", None]),
    st.sampled_from([0.1, 5.0, 19.0, 40.0]),
)


@settings(max_examples=200, deadline=None)
@given(
    everybody=st.integers(1, 2),
    each=st.integers(1, 2),
    rate=st.sampled_from([None, "1/10s"]),
    steps=st.lists(QUEUE_STEPS, max_size=40),
)
def test_who_waits_has_a_permit_or_is_refused(everybody, each, rate, steps):
    """However late anybody looks, never more are let through than there are permits, and all of these come back."""
    clock = ManualClock(1000.0)
    limits = [Limit(concurrency=everybody), Limit(concurrency=each, per=("user",))]
    limits += [] if rate is None else [Limit(requests=rate, burst=3)]
    limiter = RateLimiter(limits, on_limit="wait", max_wait_seconds=20.0, lease_seconds=1e6, clock=clock)
    waiting, running = [], []
    for what, which, user, seconds in steps:
        if what == "pass":
            clock.advance(seconds)
        elif what == "come":
            with suppress(RateLimited):
                ticket = limiter.acquire(user=user)
                (waiting if ticket.wait else running).append(ticket)
        elif what == "end" and running:
            running.pop(which % len(running)).release()
        elif what != "end" and waiting:
            ticket = waiting.pop(which % len(waiting))
            if what == "leave":
                ticket.refund()
                continue
            with suppress(RateLimited):
                (waiting if ticket.wait else running).append(ticket)
        users = [ticket.keys[1] for ticket in running if len(ticket.plan.levels) > 1 and ticket.plan.permits > 1]
        assert all(ticket.held for ticket in running)
        assert len(running) <= everybody
        assert all(users.count(user) <= each for user in users)
    for ticket in waiting:
        ticket.refund()
    for ticket in running:
        ticket.release()
    assert not limiter._books.leases
    assert not any(level.lines for level in limiter._levels)
    assert all(state <= 0.0 for level in limiter._levels if not level.timed for state in level.table.young.values())


class OfRequestsAgainstTheModel(AgainstTheModelInLine):
    """The same where nothing but requests is counted."""

    counts_tokens = False


TestRejecting = AgainstTheModel.TestCase
TestRejecting.settings = settings(max_examples=75, stateful_step_count=40, deadline=None)
TestWaiting = AgainstTheModelInLine.TestCase
TestWaiting.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestOfRequests = OfRequestsAgainstTheModel.TestCase
TestOfRequests.settings = settings(max_examples=75, stateful_step_count=40, deadline=None)
