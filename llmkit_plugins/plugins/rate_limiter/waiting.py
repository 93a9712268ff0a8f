"""Waiting in threads and tasks outside any framework: the only code in this package that sleeps."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator
from contextlib import closing
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from llmkit_plugins.clock import Clock, sleep_of
from llmkit_plugins.errors import RateLimited
from llmkit_plugins.forks import new_rlock
from llmkit_plugins.plugins.rate_limiter.turns import LOOK_AGAIN_SECONDS, Line, Place

if TYPE_CHECKING:
    from llmkit_plugins.plugins.rate_limiter.bucket import TokenBucket

P = ParamSpec("P")
R = TypeVar("R")
Naps = Generator[float, None, None]
"""Yields how long to sleep, until it is the caller's turn; if closed before that, gives the place back."""

_lines: dict[int, Line] = {}
"""By the id of the bucket, while somebody waits for it (which keeps it alive)."""
_lock = new_rlock()


def wait(naps: Naps, clock: Clock) -> None:
    """Wait in this thread."""
    sleep = sleep_of(clock)
    with closing(naps):
        for seconds in naps:
            sleep(seconds)


async def wait_async(naps: Naps) -> None:
    """Wait in this task."""
    with closing(naps):
        for seconds in naps:
            await asyncio.sleep(seconds)


class Turn:
    """A turn at *bucket* to wait for: a sync and async context manager, and a decorator for both kinds of function.

    Raises ``RateLimited`` if the wait would be longer than *max_wait_seconds*.
    """

    __slots__ = ("bucket", "cost", "max_wait_seconds")

    def __init__(self, bucket: TokenBucket, cost: float, max_wait_seconds: float) -> None:
        self.bucket, self.cost, self.max_wait_seconds = bucket, cost, max_wait_seconds

    def __enter__(self) -> None:
        if not self.bucket.check_and_consume(self.cost):
            wait(self._naps(), self.bucket.clock)

    def __exit__(self, *_: object) -> None:
        pass

    async def __aenter__(self) -> None:
        if not self.bucket.check_and_consume(self.cost):
            await wait_async(self._naps())

    async def __aexit__(self, *_: object) -> None:
        pass

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Wrap *function* so that each call waits its turn."""
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def acall(*args: P.args, **kwargs: P.kwargs) -> Any:
                async with self:
                    return await function(*args, **kwargs)

            return cast(Callable[P, R], acall)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return call

    def _naps(self) -> Naps:
        bucket, rule = self.bucket, self.bucket.rule
        with _lock:
            seconds = bucket.retry_after(self.cost)
            if seconds > self.max_wait_seconds:
                raise RateLimited(f"{rule.amount:g} per {rule.per:g} s", retry_after=seconds)
            bucket.reserve(self.cost)
            place = _lines.setdefault(id(bucket), Line()).join(self.cost * rule.interval)
        came = False
        try:
            while (ahead := self._ahead(place)) > rule.depth:
                yield min(ahead - rule.fill, LOOK_AGAIN_SECONDS)
            came = True
        finally:
            with _lock:
                place.leave(given_back=not came)
                if not place.line.places:
                    _lines.pop(id(bucket), None)
                if not came:
                    bucket.refund(self.cost)

    def _ahead(self, place: Place) -> float:
        with _lock:
            return place.state(self.bucket.full_at) - self.bucket.clock()
