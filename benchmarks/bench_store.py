"""What limits cost that processes keep together in Redis, beside others that do: one check at a time, many at once.

Needs a ``redis-server`` beside Python or on the path. Contenders that are not installed are left out: limits,
throttled-py.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

from bench_kit import Instant
from interleaved import Contender, measure, rounds_from_command_line, show
from redis import Redis

from llmkit_plugins import Call, LLMKit, RateLimiterPlugin, Target
from llmkit_plugins.plugins.rate_limiter import Limit
from llmkit_plugins.stores.redis import Claim, RedisStore

CALLS = 500
AT_ONCE = 64
BASE = "redis-py, PING"
PLENTY = "1_000_000/s"


@contextmanager
def running() -> Iterator[str]:
    """A server of its own; the URL."""
    server = shutil.which("redis-server", path=str(Path(sys.executable).parent)) or shutil.which("redis-server")
    if server is None:
        sys.exit("there is no redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([server, "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()


def claims(levels: int) -> list[Claim]:
    return [Claim(f"{{llmkit}}:{number}", 1e-6, 10.0, 9.0) for number in range(levels)]


def one_at_a_time(url: str) -> dict[str, Contender]:
    """A check of each."""
    store = RedisStore(url)
    found: dict[str, Callable[[], Any]] = {
        BASE: Redis.from_url(url).ping,
        "ours, one level": partial(store.take, claims(1)),
        "ours, three levels": partial(store.take, claims(3)),
    }
    with suppress(ImportError):
        from limits import RateLimitItemPerSecond
        from limits.storage import RedisStorage
        from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

        item = RateLimitItemPerSecond(1_000_000)
        for name, strategy in (("fixed", FixedWindowRateLimiter), ("moving", MovingWindowRateLimiter)):
            found[f"limits, {name} window"] = partial(strategy(RedisStorage(url)).hit, item, name)
    with suppress(ImportError):
        from throttled import RateLimiterType, Throttled, rate_limiter
        from throttled import store as stores

        quota = rate_limiter.per_sec(1_000_000, burst=1_000_000)
        there = stores.RedisStore(server=url)
        throttled = Throttled(key="key", using=RateLimiterType.GCRA.value, quota=quota, store=there)
        found["throttled-py, GCRA"] = throttled.limit
    return {name: each(check) for name, check in found.items()}


def each(check: Callable[[], Any]) -> Contender:
    def run() -> float:
        began = time.perf_counter()
        for _ in repeat(None, CALLS):
            check()
        return (time.perf_counter() - began) / CALLS

    return run


def through_a_kit(url: str) -> dict[str, Contender]:
    """Calls with a limit of their user and one of their provider, kept in the process or together."""

    def kit(**settings: Any) -> LLMKit:
        limits = [Limit(requests=PLENTY, per=("user",)), Limit(requests=PLENTY, per=("provider",))]
        return LLMKit([RateLimiterPlugin(limits=limits, **settings)], [Target("a", "p", "m")])

    def many(kit: LLMKit) -> Contender:
        async def calls() -> float:
            backend, began = Instant(), time.perf_counter()
            for _ in range(CALLS // AT_ONCE):
                await asyncio.gather(*[kit.acall(Call("hi", user="ann"), backend) for _ in range(AT_ONCE)])
            return (time.perf_counter() - began) / (CALLS // AT_ONCE * AT_ONCE)

        return lambda: asyncio.run(calls())

    def one(kit: LLMKit) -> Contender:
        return each(lambda: kit.call(Call("hi", user="ann"), Instant()))

    alone, together = kit(), kit(store=url)
    return {
        "each by itself": one(alone),
        "together": one(together),
        f"each by itself, {AT_ONCE} at once": many(alone),
        f"together, {AT_ONCE} at once": many(together),
    }


def main() -> None:
    rounds = rounds_from_command_line()
    with running() as url:
        show("a check", measure(one_at_a_time(url), rounds), BASE)
        show("a call through a kit, two limits", measure(through_a_kit(url), rounds), "each by itself")


if __name__ == "__main__":
    main()
