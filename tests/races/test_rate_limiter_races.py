"""Threads against the rate limiter, switching as often as the interpreter lets them.

Everything is raced in both ways it can be built, without a lock and with one, whatever this interpreter and its tracers
would choose.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from llmkit_plugins import Call, RateLimited, Target
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiter, TokenBucket, atomic, bucket

THREADS = 4
ROUNDS = 3
BURST = 20_000
SLOW = 1e-6
"""A rate at which nothing comes back while a test runs."""


@pytest.fixture(autouse=True)
def switching_all_the_time():
    """Let threads take turns every microsecond."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=["lock-free", "locked"])
def way(request, monkeypatch) -> str:
    """Build everything without a lock, or with one."""
    for module in (atomic, bucket):
        monkeypatch.setattr(module, "lock_free", lambda: request.param == "lock-free")
    return request.param


def race(work: Callable[[int], int], threads: int = THREADS) -> int:
    """The sum of what *work* returns in each of several threads that start together."""
    results = [0] * threads
    start = threading.Barrier(threads)

    def run(number: int) -> None:
        start.wait()
        results[number] = work(number)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(results)


def admitted(check: Callable[[], bool], tries: int) -> Callable[[int], int]:
    return lambda _: sum(check() for _ in range(tries))


class CallBetween(TokenBucket):
    """What must not be: a call between reading the state and writing it."""

    __slots__ = ()

    def check_and_consume(self, cost: float = 1.0) -> bool:
        full_at = self.full_at
        now = self.clock()
        full_at = max(full_at, now) + cost * self.rule.interval
        if full_at - now > self.rule.depth:
            return False
        self.full_at = full_at
        return True


def test_the_race_is_one(monkeypatch):
    """A bucket with a call in the wrong place admits too many here: these tests can fail."""
    monkeypatch.setattr(bucket, "lock_free", lambda: True)
    assert any(race(admitted(CallBetween(SLOW, BURST).check_and_consume, BURST)) > BURST for _ in range(200))


def test_one_level(way):
    """A bucket admits exactly its burst to four threads."""
    for _ in range(ROUNDS):
        bucket = TokenBucket(SLOW, BURST)
        assert hasattr(bucket, "_lock") == (way == "locked")
        assert race(admitted(bucket.check_and_consume, BURST)) == BURST


def test_reserving(way):
    """Reservations of four threads add up to the last one."""
    bucket = TokenBucket(1.0, 1, clock=lambda: 0.0)
    race(lambda _: sum(bucket.reserve() > 0 for _ in range(BURST)))
    assert bucket.available_tokens() == 1 - THREADS * BURST


def test_refunding(way):
    """What four threads take and give back is all there again."""

    def take_and_give_back(_: int) -> int:
        for _ in range(BURST // 2):
            assert bucket.check_and_consume(3)
            bucket.refund(3)
        return 0

    bucket = TokenBucket(1.0, 1000, clock=lambda: 0.0)
    assert bucket.check_and_consume(100)
    race(take_and_give_back)
    assert bucket.available_tokens() == 900


def test_three_levels_all_or_nothing(way):
    """Of three levels the narrowest admits exactly its burst to four threads, and the others are charged no more."""
    bursts = {"provider": 2 * BURST, "model": BURST, "user": 3 * BURST}
    for _ in range(ROUNDS):
        limiter = RateLimiter([Limit(requests="1/d", burst=burst, per=(key,)) for key, burst in bursts.items()])
        for keys in (("p", "m", "u"), ("p", "n", "u"), ("q", "o", "u")):
            assert race(admitted(partial(limiter.check_and_consume, *keys), BURST)) == BURST
        assert not limiter.check_and_consume("r", "s", "u")


def test_first_touch_of_a_key(way):
    """A new key is admitted once, however many threads touch it first."""
    keys = [f"user-{number}" for number in range(BURST)]
    for _ in range(ROUNDS):
        check = RateLimiter([Limit(requests="1/d", per=("user",))]).check_and_consume
        assert race(lambda _: sum(check(user=key) for key in keys)) == len(keys)  # noqa: B023


def test_keys_that_are_forgotten_and_remembered(way):
    """A key that is in use is not forgotten while threads flood the table with others."""
    limiter = RateLimiter([Limit(requests="1/d", burst=100, per=("user",))])
    check = limiter.check_and_consume

    def flood(number: int) -> int:
        taken = 0
        for turn in range(BURST // 4):
            check(user=f"user-{number}-{turn}")
            taken += check(user="steady")
        return taken

    assert race(flood) == 100


def test_tickets_of_tokens(way):
    """Tokens reserved by four threads, with an amount of their own each, never exceed the burst."""
    limiter = RateLimiter([Limit(tokens="1/d", burst=BURST, per=("user",)), Limit(requests="1/d", burst=BURST)])

    def take(number: int) -> int:
        taken = 0
        for _ in range(BURST // 4):
            if limiter.check_and_consume(user="u", input_tokens=number + 1):
                taken += number + 1
        return taken

    taken = race(take)
    assert BURST - THREADS < taken <= BURST


@pytest.mark.parametrize("meter", ["requests", "output_tokens"])
def test_tickets_of_calls(way, meter):
    """Tickets of calls, taken and given back by four threads, never exceed the burst, and none is lost."""
    narrow: dict[str, Any] = {meter: "1/d", "burst": BURST // 8}
    limiter = RateLimiter([Limit(**narrow, per=("user",)), Limit(requests="1/d", burst=BURST)])
    call = Call(user="u", params={"max_tokens": 1})

    def take(_: int) -> int:
        taken = 0
        for turn in range(BURST // 8):
            try:
                ticket = limiter.request(call)
            except RateLimited:
                continue
            if turn % 2:
                ticket.refund()
            else:
                taken += 1
        return taken

    assert race(take) == BURST // 8


def test_what_a_provider_has_left(way):
    """Of what a provider says is left, four threads are admitted exactly as many, whatever else is limited."""
    left = BURST // 40
    for limits in ([], [Limit(requests="1/d", burst=BURST, per=("target",))], [Limit(concurrency=BURST)]):
        limiter = RateLimiter(limits, clock=lambda: 0.0)
        call, target = Call(), Target("t", "p", "m")
        limiter.attempt(call, target).answered(
            {
                "x-ratelimit-limit-requests": str(2 * left),
                "x-ratelimit-remaining-requests": str(left),
                "x-ratelimit-reset-requests": str(left),
            }
        )

        def attempt(_: int) -> int:
            taken = 0
            for _ in range(left):
                with suppress(RateLimited):
                    limiter.attempt(call, target)  # noqa: B023
                    taken += 1
            return taken

        assert race(attempt) == left


def test_permits(way):
    """No more calls are under way than there are permits, and all permits are there in the end."""
    limiter = RateLimiter([Limit(concurrency=3, per=("provider",))])
    inside: set[object] = set()
    worst = [0]

    def enter(_: int) -> int:
        for _ in range(BURST // 20):
            try:
                ticket = limiter.acquire("p")
            except RateLimited:
                continue
            inside.add(ticket)
            worst[0] = max(worst[0], len(inside))
            inside.discard(ticket)
            ticket.release()
        return 0

    race(enter)
    assert worst[0] <= 3
    for _ in range(3):
        limiter.acquire("p")
    with pytest.raises(RateLimited):
        limiter.acquire("p")


def test_settling(way):
    """What four threads settle to the same as they expected leaves the bucket as if nothing had been corrected."""
    limiter = RateLimiter([Limit(tokens="1/d", burst=1_000_000, per=("user",))], clock=lambda: 0.0)

    def take_and_settle(_: int) -> int:
        for _ in range(BURST // 20):
            limiter.acquire(user="u", input_tokens=10).settle(12, 1)
        return 0

    race(take_and_settle)
    left = 1_000_000 - THREADS * (BURST // 20) * 13
    assert limiter.check_and_consume(user="u", input_tokens=left)
    assert not limiter.check_and_consume(user="u", input_tokens=1)


def test_a_python_tracer_means_a_lock():
    """While a trace function in Python is set, what is built is built with a lock, and stays exact under it."""

    def tracer(*_):
        return tracer

    before = threading.gettrace()
    threading.settrace(tracer)
    try:
        assert not atomic.lock_free()
        bucket = TokenBucket(SLOW, BURST // 20)
        assert race(admitted(bucket.check_and_consume, BURST // 20)) == BURST // 20
    finally:
        threading.settrace(before)
