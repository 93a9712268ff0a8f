"""Time limits on sends and waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol, TypeVar

from llmkit_plugins.call import Attempt, Call
from llmkit_plugins.errors import Refused, TimedOut
from llmkit_plugins.steps import Wait

if TYPE_CHECKING:
    from llmkit_plugins.engine.plan import Plan

T = TypeVar("T")


class Until(Protocol):
    """Whatever has the deadline: the call, or the flight if several calls share an upstream."""

    @property
    def deadline(self) -> float | None: ...


def allow(attempt: Attempt | None, call: Call, plan: Plan, until: Until) -> float | None:
    """Seconds a send starting now may take, None if unbounded; also stored on *attempt* for its backend."""
    left = patience(attempt, call, plan, until)
    if left == 0.0:
        raise Refused("the call's deadline has passed")
    if attempt is not None:
        attempt.timeout_seconds = left
    return left


def patience(attempt: Attempt | None, call: Call, plan: Plan, until: Until) -> float | None:
    """Seconds *attempt* may take from now, or the whole call if the framework makes the attempts."""
    timeout = None if attempt is None else call.timeout_seconds
    if until.deadline is None:
        return timeout
    left = max(0.0, until.deadline - plan.clock())
    return left if timeout is None else min(left, timeout)


def affordable(wait: Wait, plan: Plan, deadline: float | None) -> float:
    """Seconds to sleep; refuses a wait that is infinite or would outlast the call's deadline."""
    seconds = max(0.0, wait.seconds)
    if not seconds < float("inf"):
        raise Refused("a plugin would wait for ever")
    if deadline is not None and plan.clock() + seconds > deadline:
        raise Refused(f"waiting {seconds:.3g} s would outlast the call's deadline", seconds)
    return seconds


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    """The result of *awaitable*; raises ``TimedOut`` after *seconds*."""
    try:
        async with asyncio.timeout(seconds) as scope:
            return await awaitable
    except TimeoutError:
        if scope.expired():
            raise TimedOut(f"the provider said nothing for {seconds:.3g} s") from None
        raise
