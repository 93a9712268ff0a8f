"""The rate limiter beside those of the field: a check, a refusal, three levels, four threads, memory, waiting in turn;
and what it adds to a call through a kit.

Contenders that are not installed are left out: limits, pyrate-limiter, throttled-py, aiolimiter, token_bucket.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import tracemalloc
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import repeat
from typing import Any, ClassVar

from bench_kit import Instant, calling
from interleaved import Contender, measure, rounds_from_command_line, show

from llmkit_plugins import Attempt, Call, LLMKit, RateLimiterPlugin, Target
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiter, TokenBucket

CALLS = 20_000
THREADS = 4
PLENTY = 1_000_000_000
OURS = "TokenBucket"
Check = Callable[[], Any]


def contenders(rate: float, burst: float) -> dict[str, Check]:
    """One level of each, admitting or refusing by its *rate* and *burst*."""
    found: dict[str, Check] = {OURS: TokenBucket(rate, burst).check_and_consume}
    with suppress(ImportError):
        from langchain_core.rate_limiters import InMemoryRateLimiter

        peer = InMemoryRateLimiter(requests_per_second=rate, max_bucket_size=burst)
        found["langchain-core InMemoryRateLimiter"] = lambda: peer.acquire(blocking=False)
    with suppress(ImportError):
        from token_bucket import Limiter, MemoryStorage

        racy = Limiter(rate, burst, MemoryStorage())
        found["token_bucket (says it is racy)"] = partial(racy.consume, "key")
    with suppress(ImportError):
        from limits import RateLimitItemPerSecond
        from limits.storage import MemoryStorage as Storage
        from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

        item = RateLimitItemPerSecond(max(1, int(rate)), 1 if rate >= 1 else int(1 / rate))
        fixed, sliding = FixedWindowRateLimiter(Storage()), SlidingWindowCounterRateLimiter(Storage())
        found["limits, fixed window"] = partial(fixed.hit, item, "key")
        found["limits, sliding window"] = partial(sliding.hit, item, "key")
    with suppress(ImportError):
        from throttled import RateLimiterType, Throttled, rate_limiter, store

        quota = (
            rate_limiter.per_sec(max(1, int(rate)), burst=int(burst)) if rate >= 1 else rate_limiter.per_day(1, burst=1)
        )
        throttled = Throttled(key="key", using=RateLimiterType.GCRA.value, quota=quota, store=store.MemoryStore())
        found["throttled-py, GCRA"] = throttled.limit
    with suppress(ImportError):
        from pyrate_limiter import InMemoryBucket, Rate
        from pyrate_limiter import Limiter as Pyrate

        pyrate = Pyrate(InMemoryBucket([Rate(max(1, int(burst)), 1000 if rate >= 1 else 86_400_000)]))
        found["pyrate-limiter"] = lambda: pyrate.try_acquire("key", blocking=False)
    return found


def timed(check: Check, calls: int = CALLS) -> Contender:
    def run() -> float:
        began = time.thread_time()  # what others do on this machine does not count
        for _ in repeat(None, calls):
            check()
        return (time.thread_time() - began) / calls

    return run


def timed_three(check: Callable[[str, str, str], bool]) -> Contender:
    def run() -> float:
        began = time.thread_time()
        for _ in repeat(None, CALLS):
            check("openai", "gpt", "user-1")
        return (time.thread_time() - began) / CALLS

    return run


def one_level(rounds: int) -> None:
    admitting = {name: timed(check) for name, check in contenders(PLENTY, 1_000_000).items()}
    show("one level, admitted", measure(admitting, rounds), OURS, {OURS: 0.150})
    refusing = contenders(1e-4, 1)
    for check in refusing.values():
        for _ in range(3):
            check()
    show("one level, refused", measure({name: timed(c) for name, c in refusing.items()}, rounds), OURS, {OURS: 0.150})


def three_levels(rounds: int) -> None:
    limits = [Limit(requests=f"{PLENTY}/s", per=(key,)) for key in ("provider", "model", "user")]
    limiter = RateLimiter(limits)
    check, call, target = limiter.check_and_consume, Call(user="user-1", model="gpt"), Target("t", "openai", "gpt")
    one_user = RateLimiter([Limit(requests="1/d", burst=1, per=(key,)) for key in ("provider", "model", "user")])
    one_user.check_and_consume("openai", "gpt", "user-1")
    users = iter([f"user-{number}" for number in range(1000)] * (CALLS * (rounds + 1) // 1000))
    busy = RateLimiter([Limit(requests="1/s", burst=1e12, per=(key,)) for key in ("provider", "model", "user")])
    ours = "three keyed levels, all or nothing"
    runs: dict[str, Contender] = {
        ours: timed_three(check),
        "... none of them idle": timed_three(busy.check_and_consume),
        "... among 1000 users, in a lambda": timed(lambda: check("openai", "gpt", next(users))),
        "... refused": timed_three(one_user.check_and_consume),
        "... with a ticket (acquire, release)": timed(lambda: limiter.acquire("openai", "gpt", "user-1").release()),
        "... of a call (request, attempt, release)": timed(
            lambda: (limiter.request(call).release(), limiter.attempt(call, target).release())
        ),
    }
    tokens = RateLimiter([Limit(requests=f"{PLENTY}/s", tokens=f"{PLENTY}/s", per=("user",))])
    asked = Call(user="user-1", messages=[{"role": "user", "content": "x" * 1000}])
    runs["tokens estimated, reserved and settled"] = timed(lambda: tokens.request(asked).settle(250, 100), CALLS // 10)
    with suppress(ImportError):
        from langchain_core.rate_limiters import InMemoryRateLimiter

        peers = [InMemoryRateLimiter(requests_per_second=PLENTY, max_bucket_size=1e6) for _ in range(3)]
        runs["langchain-core, three in a row, no keys"] = timed(
            lambda: [peer.acquire(blocking=False) for peer in peers]
        )
    with suppress(ImportError):
        from limits import RateLimitItemPerSecond
        from limits.storage import MemoryStorage
        from limits.strategies import FixedWindowRateLimiter

        item, fixed = RateLimitItemPerSecond(PLENTY), FixedWindowRateLimiter(MemoryStorage())
        keys = ("openai", "gpt", "user-1")
        runs["limits, three in a row"] = timed(lambda: [fixed.hit(item, key) for key in keys])
    show("three levels", measure(runs, rounds), ours, {ours: 0.350})


class Saying(Instant):
    """Says what is left, as OpenAI does with every answer."""

    headers: ClassVar = {
        f"x-ratelimit-{what}-{meter}": value
        for meter in ("requests", "tokens")
        for what, value in (("limit", str(PLENTY)), ("remaining", str(PLENTY - 1)), ("reset", "6ms"))
    }

    def send(self, call: Call, attempt: Attempt | None) -> Any:
        assert attempt is not None
        attempt.headers = self.headers
        return super().send(call, attempt)


def in_a_kit(rounds: int) -> None:
    requests = [Limit(requests=f"{PLENTY}/s", per=(key,)) for key in ("user", "provider")]
    tokens = [Limit(tokens=f"{PLENTY}/s", per=(key,)) for key in ("user", "provider")]
    dollars = Limit(cost=f"{PLENTY} USD/s", per=("user",))
    kits: dict[str, tuple[list[Limit], Instant]] = {
        "requests, of its user and its provider": (requests, Instant()),
        "... whose provider says what is left": (requests, Saying()),
        "calls under way, at its target": ([Limit(concurrency=9, per=("target",))], Instant()),
        "tokens, of its user": (tokens[:1], Instant()),
        "requests and tokens, of both": ([*requests, *tokens], Instant()),
        "... and dollars, of its user": ([*requests, *tokens, dollars], Instant()),
    }
    bare = "no limiter"
    runs = {name: calling(LLMKit([RateLimiterPlugin(limits=limits)]), at) for name, (limits, at) in kits.items()}
    show("a call through a kit, limited by", measure({bare: calling(LLMKit(), Instant()), **runs}, rounds), bare)


def waiting(rounds: int) -> None:
    bucket = TokenBucket(PLENTY, 1_000_000)

    async def ours(calls: int) -> None:
        for _ in repeat(None, calls):
            async with bucket:
                pass

    peers: dict[str, Any] = {"async with TokenBucket": ours}
    with suppress(ImportError):
        from aiolimiter import AsyncLimiter

        async def aiolimiter(calls: int) -> None:
            limiter = AsyncLimiter(PLENTY, 1)
            for _ in repeat(None, calls):
                async with limiter:
                    pass

        peers["async with aiolimiter"] = aiolimiter

    def run(coroutine: Any) -> Contender:
        def once() -> float:
            began = time.thread_time()
            asyncio.run(coroutine(CALLS // 4))
            return (time.thread_time() - began) / (CALLS // 4)

        return once

    runs = {name: run(coroutine) for name, coroutine in peers.items()}
    show("asyncio, nobody has to wait", measure(runs, rounds), "async with TokenBucket")


def four_threads(rounds: int) -> None:
    """The time of every single call, the timer included, while four threads call."""
    print(f"\n{THREADS} threads on one limiter, ns a call, timer included")
    candidates = contenders(PLENTY, 1_000_000)
    limits = [Limit(requests=f"{PLENTY}/s", per=(key,)) for key in ("provider", "model", "user")]
    three = RateLimiter(limits).check_and_consume
    candidates = {"(nothing)": lambda: None, "three keyed levels": lambda: three("p", "m", "u"), **candidates}
    calls = 20_000 if rounds > 3 else 4_000
    samples: dict[str, array[int]] = {name: array("q") for name in candidates}
    for _ in range(max(1, rounds // 3)):
        for name, check in candidates.items():
            samples[name].extend(hammered(check, calls))
    for name, taken in samples.items():
        ordered = sorted(taken)
        p50, p99, p999 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99, 0.999))
        budget = f"   budget p99.9 1 µs: {'met' if p999 < 1000 else 'MISSED'}" if name == OURS else ""
        print(f"  {name:44} p50 {p50:7} p99 {p99:9} p99.9 {p999:10}{budget}")


def hammered(check: Check, calls: int) -> array[int]:
    took = [array("q", bytes(8 * calls)) for _ in range(THREADS)]
    start = threading.Barrier(THREADS)
    clock = time.perf_counter_ns

    def run(mine: array[int]) -> None:
        start.wait()
        for number in range(calls):
            began = clock()
            check()
            mine[number] = clock() - began

    threads = [threading.Thread(target=run, args=(mine,)) for mine in took]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(took, array("q"))


def allocated(make: Callable[[], Any]) -> tuple[Any, int]:
    """What *make* makes, and the bytes that stay allocated for it."""
    gc.collect()
    tracemalloc.start()
    made = make()
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return made, size


def memory(quick: bool) -> None:
    print("\nmemory")
    buckets, size = allocated(lambda: [TokenBucket(100, 50) for _ in range(1000)])
    _, used = allocated(lambda: [bucket.check_and_consume() for bucket in buckets] and None)
    print(
        f"  a TokenBucket                     {(size + used) / 1000:8.0f} B (its state and a place in a list included)"
    )
    with suppress(ImportError):
        from langchain_core.rate_limiters import InMemoryRateLimiter

        _, size = allocated(lambda: [InMemoryRateLimiter(requests_per_second=100) for _ in range(1000)])
        print(f"  langchain-core's                  {size / 1000:8.0f} B")
    keys = [f"user-{number}" for number in range(100_000 if quick else 1_000_000)]
    limiter = RateLimiter([Limit(requests="1/min", per=("user",))], max_keys=2_000_000)
    check = limiter.check_and_consume

    def touch_all() -> None:
        for key in keys:
            check(user=key)

    _, size = allocated(touch_all)
    print(f"  a key, the text of the key apart  {size / len(keys):8.0f} B, {len(keys):,} keys in use at once")
    limiter = RateLimiter([Limit(requests="1000/s", per=("user",))])
    check = limiter.check_and_consume
    began = time.thread_time()
    touch_all()
    first = (time.thread_time() - began) / len(keys)
    remembered = limiter.stats()["requests 1000/s per user"].keys
    print(f"  {len(keys):,} keys that come once: {first * 1e6:.2f} µs each, {remembered:,} remembered in the end")
    limiter = RateLimiter([Limit(requests="1/d", burst=1000, per=("user",))], max_keys=2_000_000)
    check = limiter.check_and_consume
    touch_all()
    touch_all()
    began = time.thread_time()
    touch_all()
    print(f"  {len(keys):,} keys again: {(time.thread_time() - began) / len(keys) * 1e6:.2f} µs each")


def fairness() -> None:
    """A hundred tasks come twice as fast as they are let in: how many pairs are let in in the wrong order."""
    print("\n100 tasks, one every ms, let in at 500 a second: pairs in the wrong order of 4950, and seconds for all")

    async def race(enter: Callable[[], Any]) -> tuple[int, float]:
        order: list[int] = []

        async def one(number: int) -> None:
            await asyncio.sleep(number / 1000)
            await enter()
            order.append(number)

        began = time.perf_counter()
        await asyncio.gather(*[one(number) for number in range(100)])
        wrong = sum(earlier > later for place, earlier in enumerate(order) for later in order[place + 1 :])
        return wrong, time.perf_counter() - began

    def report(name: str, enter: Callable[[], Any]) -> None:
        wrong, seconds = asyncio.run(race(enter))
        print(f"  {name:44} {wrong:5}  {seconds:.2f} s")

    limiter = RateLimiter([Limit(requests="500/s", burst=1)], on_limit="wait")

    async def ticket() -> None:
        await limiter.acquire().__aenter__()

    report("TokenBucket", TokenBucket(500, 1).__aenter__)
    report("RateLimiter, wait", ticket)
    with suppress(ImportError):
        from langchain_core.rate_limiters import InMemoryRateLimiter

        for seconds in (0.01, 0.1):
            polling = InMemoryRateLimiter(requests_per_second=500, check_every_n_seconds=seconds)
            report(f"langchain-core, looking every {seconds:g} s", polling.aacquire)
    with suppress(ImportError):
        from aiolimiter import AsyncLimiter

        report("aiolimiter", AsyncLimiter(1, 1 / 500).acquire)


def exactness() -> None:
    """Four threads, a burst of 10,000 and nothing coming back: how many too many."""
    print("\nadmitted beyond a burst of 10,000 by four threads that switch every microsecond")
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for name, make in {
            OURS: lambda: TokenBucket(1e-6, 10_000).check_and_consume,
            "three keyed levels": lambda: keyed(10_000),
        }.items():
            check, counts = make(), [0] * THREADS

            def run(number: int, check: Check = check, counts: list[int] = counts) -> None:
                counts[number] = sum(bool(check()) for _ in range(10_000))

            threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            print(f"  {name:44} {sum(counts) - 10_000}")
    finally:
        sys.setswitchinterval(before)


def keyed(burst: int) -> Check:
    limits = [Limit(requests="1/d", burst=burst, per=(key,)) for key in ("provider", "model", "user")]
    check = RateLimiter(limits).check_and_consume
    return lambda: check("p", "m", "u")


def main() -> None:
    rounds = rounds_from_command_line()
    one_level(rounds)
    three_levels(rounds)
    in_a_kit(rounds)
    waiting(rounds)
    four_threads(rounds)
    memory(quick=rounds <= 3)
    fairness()
    exactness()


if __name__ == "__main__":
    main()
