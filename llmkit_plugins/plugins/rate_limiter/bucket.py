"""A single token bucket: GCRA with one float of state."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, NoReturn, ParamSpec, TypeVar

from llmkit_plugins.clock import SYSTEM_CLOCK, Clock
from llmkit_plugins.errors import ConfigError
from llmkit_plugins.plugins.rate_limiter.atomic import guarded, lock_free
from llmkit_plugins.plugins.rate_limiter.rate import FULL, Rate
from llmkit_plugins.plugins.rate_limiter.waiting import Turn

P = ParamSpec("P")
R = TypeVar("R")

_shared_rate = lru_cache(maxsize=1024, typed=True)(Rate)


class TokenBucket:
    """Admits *rate* per *per* seconds, and up to *burst* at once after a rest (one period's worth, if not given).

    It uses GCRA, the generic cell rate algorithm (ITU-T I.371): the state is the time at which the bucket will be full
    again. Over any t seconds it admits at most ``burst + rate·t``, and a full burst is always admitted. It is safe to
    share between threads and tasks, without a lock (see :mod:`.atomic`). Costs may be fractions; 0 asks whether there
    is a debt. Times are in seconds of *clock*. Raises ``ConfigError`` if a number is not above 0.

    ``with bucket:``, ``async with bucket:`` and ``@bucket`` wait their turn, first come, first served.
    """

    __slots__ = ("clock", "full_at", "rule")

    ATOMIC: ClassVar = ("check_and_consume", "refund", "reserve", "reset")

    def __new__(cls, *args: Any, **kwargs: Any) -> TokenBucket:  # noqa: ARG004
        return super().__new__(cls if lock_free() else guarded(cls))

    def __init__(self, rate: float, burst: float | None = None, per: float = 1.0, clock: Clock = SYSTEM_CLOCK) -> None:
        self.rule = _shared_rate(rate, burst, per)
        self.clock = clock
        self.full_at = FULL

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.rule!r}, {self.available_tokens():g} available>"

    @classmethod
    def per_provider(cls, clock: Clock = SYSTEM_CLOCK) -> TokenBucket:
        """100 a second."""
        return cls(100, clock=clock)

    @classmethod
    def per_model(cls, clock: Clock = SYSTEM_CLOCK) -> TokenBucket:
        """10 a second."""
        return cls(10, clock=clock)

    @classmethod
    def per_user(cls, clock: Clock = SYSTEM_CLOCK) -> TokenBucket:
        """1 a second."""
        return cls(1, clock=clock)

    @classmethod
    def unlimited(cls, clock: Clock = SYSTEM_CLOCK) -> TokenBucket:
        """Admits everything."""
        return cls(float("inf"), clock=clock)

    @property
    def rate(self) -> float:
        """How many per period."""
        return self.rule.amount

    @property
    def per(self) -> float:
        """The period in seconds."""
        return self.rule.per

    @property
    def burst(self) -> float:
        """How many at once."""
        return self.rule.burst

    def check_and_consume(self, cost: float = 1.0) -> bool:
        """Take *cost* if available. Raises ``ConfigError`` if *cost* is not a number from 0 to the burst."""
        # Hot path: half of it is the clock. An idle bucket needs no arithmetic except for the write.
        clock = self.clock
        rule = self.rule
        if cost < 0.0:
            self._reject(cost)
        now = clock()
        full_at = self.full_at
        if full_at <= now:
            if cost <= rule.most:
                self.full_at = now + cost * rule.interval
                return True
        else:
            full_at += cost * rule.interval
            if full_at - now <= rule.depth:
                self.full_at = full_at
                return True
        if not cost <= rule.most:
            self._reject(cost)
        return False

    def reserve(self, cost: float = 1.0) -> float:
        """Take *cost* now, even if not yet available, and return the seconds to wait before using it.

        Raises ``ConfigError`` if *cost* is not a number from 0 to the burst.
        """
        rule = self.rule
        clock = self.clock
        step = self._step(cost)
        now = clock()
        full_at = self.full_at
        if full_at < now:
            full_at = now
        full_at += step
        self.full_at = full_at
        ahead = full_at - now
        return ahead - rule.fill if ahead > rule.depth else 0.0

    def refund(self, cost: float) -> None:
        """Give back *cost*. Anything that would overflow the bucket is lost."""
        step = self._step(cost)
        self.full_at = self.full_at - step

    def reset(self) -> None:
        """Fill the bucket."""
        self.full_at = FULL

    def available_tokens(self) -> float:
        """How many tokens could be taken now; negative while there is a debt."""
        rule = self.rule
        ahead = self.full_at - self.clock()
        return round(rule.burst - ahead / rule.interval, 9) + 0.0 if ahead > 0.0 else rule.burst

    def is_limited(self) -> bool:
        """Whether a call (a cost of 1, or of the burst if that is less) would be refused now."""
        return self.retry_after(min(1.0, self.rule.burst)) > 0.0

    def retry_after(self, cost: float = 1.0) -> float:
        """Seconds until *cost* would be admitted, if nothing else is taken until then; 0.0 if it would be now.

        Raises ``ConfigError`` if *cost* is not a number from 0 to the burst: it can never be admitted.
        """
        step = self._step(cost)
        now = self.clock()
        ahead = max(self.full_at, now) + step - now
        return ahead - self.rule.fill if ahead > self.rule.depth else 0.0

    def turn(self, cost: float = 1.0, max_wait_seconds: float = float("inf")) -> Turn:
        """A turn at *cost*: ``with bucket.turn(3, max_wait_seconds=5): ...``."""
        return Turn(self, cost, max_wait_seconds)

    def __enter__(self) -> None:
        self.turn().__enter__()

    def __exit__(self, *_: object) -> None:
        pass

    async def __aenter__(self) -> None:
        await self.turn().__aenter__()

    async def __aexit__(self, *_: object) -> None:
        pass

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """*function*, each call of which waits its turn."""
        return self.turn()(function)

    def _step(self, cost: float) -> float:
        if not 0.0 <= cost <= self.rule.most:
            self._reject(cost)
        return cost * self.rule.interval

    def _reject(self, cost: float) -> NoReturn:
        why = "can never be admitted" if cost > 0 else "is not valid"
        raise ConfigError(f"a cost of {cost:g} {why}", key="cost", right=f"from 0 to the burst of {self.rule.burst:g}")
