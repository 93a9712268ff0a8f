"""A guarded call of an empty function, beside other circuit breakers; memory; and whether calls run in parallel.

Peers are measured where they are installed: pybreaker, circuitbreaker, purgatory, aiobreaker, hyx. None of them keeps
statistics of latency.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

from interleaved import Contender, measure, rounds_from_command_line, show

from llmkit_plugins.plugins.circuit_breaker import CircuitBreaker

try:
    import aiobreaker
    import circuitbreaker
    import hyx.circuitbreaker as hyx
    import purgatory
    import pybreaker
except ImportError as missing:
    PEERS = False
    print(f"without peers: {missing}")
else:
    PEERS = True

CALLS, STRETCHES = 500, 10
BREAKERS = 100
CLOCK = time.perf_counter
OURS = "CircuitBreaker.call"
AOURS = "CircuitBreaker.acall"


def empty() -> None:
    """What is guarded."""


async def aempty() -> None:
    """What is guarded and awaited."""


def warm() -> CircuitBreaker:
    """A breaker that knows what is usual."""
    breaker = CircuitBreaker("target")
    for number in range(1000):
        breaker.record_success(0.1 + number % 7 / 100)
    return breaker


def timed(call: Callable[[], object]) -> Contender:
    """Seconds per *call* in the quickest stretch: the others were shared with whatever else the machine does."""

    def run() -> float:
        started = CLOCK()
        for _ in range(CALLS):
            call()
        return (CLOCK() - started) / CALLS

    return lambda: min(run() for _ in range(STRETCHES))


def atimed(call: Callable[[], Awaitable[object]]) -> Contender:
    """Seconds per awaited *call* in the quickest stretch."""

    async def run() -> float:
        started = CLOCK()
        for _ in range(CALLS):
            await call()
        return (CLOCK() - started) / CALLS

    async def quickest() -> float:
        return min([await run() for _ in range(STRETCHES)])

    return lambda: asyncio.run(quickest())


def sync_contenders() -> dict[str, Contender]:
    """Every way to guard a function."""
    breaker = warm()
    decorated = warm()(empty)
    recorder = warm()

    def block() -> None:
        with breaker:
            empty()

    def record() -> None:
        permit = recorder.acquire()
        empty()
        recorder.record_success(0.12, permit=permit)

    ours = {
        "no breaker": empty,
        OURS: lambda: breaker.call(empty),
        "CircuitBreaker decorator": decorated,
        "CircuitBreaker acquire, record": record,
        "CircuitBreaker with": block,
    }
    return {name: timed(call) for name, call in {**ours, **(sync_peers() if PEERS else {})}.items()}


def sync_peers() -> dict[str, Callable[[], object]]:
    """The peers' ways."""
    py, aio = pybreaker.CircuitBreaker(), aiobreaker.CircuitBreaker()
    purgatory_factory = purgatory.SyncCircuitBreakerFactory()

    def purged() -> None:
        with purgatory_factory.get_breaker("target"):
            empty()

    return {
        "pybreaker call": lambda: py.call(empty),
        "aiobreaker call": lambda: aio.call(empty),
        "circuitbreaker decorator": circuitbreaker.CircuitBreaker(name="target")(empty),
        "purgatory get_breaker, with": purged,
    }


def async_contenders() -> dict[str, Contender]:
    """Every way to guard a coroutine."""
    breaker = warm()

    async def block() -> None:
        async with breaker:
            await aempty()

    ours = {"no breaker": aempty, AOURS: lambda: breaker.acall(aempty), "CircuitBreaker async with": block}
    return {name: atimed(call) for name, call in {**ours, **(async_peers() if PEERS else {})}.items()}


def async_peers() -> dict[str, Callable[[], Awaitable[object]]]:
    """The peers' ways."""
    aio, hyx_breaker = aiobreaker.CircuitBreaker(), hyx.consecutive_breaker(failure_threshold=5)
    factory = purgatory.AsyncCircuitBreakerFactory()

    async def purged() -> None:
        async with await factory.get_breaker("target"):
            await aempty()

    return {
        "aiobreaker call_async": lambda: aio.call_async(aempty),
        "hyx decorator": hyx_breaker(aempty),
        "circuitbreaker decorator": circuitbreaker.CircuitBreaker(name="async target")(aempty),
        "purgatory get_breaker, async with": purged,
    }


def bytes_each(make: Callable[[], Any]) -> float:
    """Bytes that one of a hundred takes, after it was used."""
    make()
    gc.collect()
    tracemalloc.start()
    kept = [make() for _ in range(BREAKERS)]
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return taken / len(kept)


def memory() -> None:
    """Print what a breaker holds."""

    def used(breaker: Any) -> Any:
        for _ in range(3):
            breaker.call(empty)
        return breaker

    def streaming() -> CircuitBreaker:
        breaker = warm()
        for number in range(100):
            breaker.record_success(9.0, time_to_first_chunk=0.3 + number / 1e3, seconds_per_output_token=0.02)
        return breaker

    makers = {"CircuitBreaker": warm, "CircuitBreaker, streams too": streaming}
    if PEERS:
        makers["pybreaker"] = lambda: used(pybreaker.CircuitBreaker())
        makers["aiobreaker"] = lambda: used(aiobreaker.CircuitBreaker())
        makers["circuitbreaker"] = lambda: used(circuitbreaker.CircuitBreaker(name="target"))
    print("\nmemory of one, of a hundred")
    for name, make in makers.items():
        taken = bytes_each(make)
        verdict = f"   budget 2048 B: {'met' if taken <= 2048 else 'MISSED'}" if name == "CircuitBreaker" else ""
        print(f"  {name:44} {taken:10.0f} B{verdict}")


def in_parallel(call: Callable[[Callable[[], None]], object]) -> float:
    """Seconds that four threads take for five calls of 20 ms each."""

    def work() -> None:
        for _ in range(5):
            call(lambda: time.sleep(0.02))

    threads = [threading.Thread(target=work) for _ in range(4)]
    started = CLOCK()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return CLOCK() - started


def parallelism() -> None:
    """Print whether guarded calls of four threads wait for each other."""
    calls: dict[str, Callable[[Callable[[], None]], object]] = {"no breaker": lambda f: f(), OURS: warm().call}
    if PEERS:
        calls["pybreaker call"] = pybreaker.CircuitBreaker().call
        calls["aiobreaker call"] = aiobreaker.CircuitBreaker().call
        calls["circuitbreaker call"] = circuitbreaker.CircuitBreaker(name="target").call
    print("\nfour threads, five calls of 20 ms each: 100 ms in parallel, 400 ms one after the other")
    for name, call in calls.items():
        print(f"  {name:44} {in_parallel(call) * 1e3:10.0f} ms")


def main() -> None:
    """Run everything."""
    rounds = rounds_from_command_line(default=25, quick=5)
    show("a guarded call", measure(sync_contenders(), rounds), OURS, {OURS: 1.0})
    show("a guarded await", measure(async_contenders(), rounds), AOURS)
    memory()
    parallelism()


if __name__ == "__main__":
    main()
