"""How long what is sent, or waited for, may take."""

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
    """Whoever has the deadline: the call, or where several share an upstream, their flight."""

    @property
    def deadline(self) -> float | None: ...


def allow(attempt: Attempt | None, call: Call, plan: Plan, until: Until) -> float | None:
    """How long what is sent now may take, where that is bounded; *attempt* keeps it for its backend."""
    left = patience(attempt, call, plan, until)
    if left == 0.0:
        raise Refused("the call's deadline has passed")
    if attempt is not None:
        attempt.timeout_seconds = left
    return left


def patience(attempt: Attempt | None, call: Call, plan: Plan, until: Until) -> float | None:
    """How long *attempt* may take from now; where the framework makes the attempts, how long the whole call may."""
    timeout = None if attempt is None else call.timeout_seconds
    if until.deadline is None:
        return timeout
    left = max(0.0, until.deadline - plan.clock())
    return left if timeout is None else min(left, timeout)


def affordable(wait: Wait, plan: Plan, deadline: float | None) -> float:
    """How long to sleep; a wait that would outlast the call's deadline, or everything, is refused."""
    seconds = max(0.0, wait.seconds)
    if not seconds < float("inf"):
        raise Refused("a plugin would wait for ever")
    if deadline is not None and plan.clock() + seconds > deadline:
        raise Refused(f"waiting {seconds:.3g} s would outlast the call's deadline", seconds)
    return seconds


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    """What *awaitable* returns, or ``TimedOut``."""
    try:
        async with asyncio.timeout(seconds) as scope:
            return await awaitable
    except TimeoutError:
        if scope.expired():
            raise TimedOut(f"the provider said nothing for {seconds:.3g} s") from None
        raise
