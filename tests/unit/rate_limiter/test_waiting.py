"""Buckets that are waited for, outside any framework."""

from __future__ import annotations

import asyncio

import pytest

from llmkit_plugins import RateLimited
from llmkit_plugins.plugins.rate_limiter import TokenBucket, waiting
from llmkit_plugins.plugins.rate_limiter.turns import LOOK_AGAIN_SECONDS


def test_with_waits_its_turn(clock):
    """A with block begins when the bucket admits it."""
    bucket = TokenBucket(2, 1, clock=clock)
    moments = []
    for _ in range(4):
        with bucket:
            moments.append(clock())
    assert moments == pytest.approx([1000, 1000.5, 1001, 1001.5])


def test_a_turn_may_cost_more_and_wait_less(clock):
    """A turn has a cost, and a longest wait beyond which it raises and takes nothing."""
    bucket = TokenBucket(1, 5, clock=clock)
    with bucket.turn(5):
        pass
    with pytest.raises(RateLimited, match="1 per 1 s") as caught, bucket.turn(3, max_wait_seconds=2):
        pytest.fail("it may not enter")
    assert caught.value.retry_after == pytest.approx(3)
    with bucket.turn(3, max_wait_seconds=3):
        assert clock() == pytest.approx(1003)


def test_a_function_waits_its_turn(clock):
    """Each call of a decorated function waits, and the function stays what it was."""
    bucket = TokenBucket(1, 1, clock=clock)

    @bucket
    def double(number: int) -> int:
        """Twice the number."""
        return number * 2

    assert [double(number) for number in range(3)] == [0, 2, 4]
    assert clock() == pytest.approx(1002)
    assert double.__doc__ == "Twice the number."


def test_a_coroutine_function_waits_its_turn(clock):
    """Calls of a decorated coroutine function wait in the order in which they were awaited."""
    bucket, order = TokenBucket(1, 1, clock=clock), []

    @bucket.turn(cost=0.5)
    async def enter(number: int) -> None:
        order.append((number, clock()))

    async def several() -> None:
        await asyncio.gather(*[enter(number) for number in range(5)])

    clock.run(several())
    assert order == [(0, 1000), (1, 1000), (2, 1000.5), (3, 1001), (4, 1001.5)]


def test_a_cancelled_waiter_gives_its_place_back(clock):
    """Those behind a task that is cancelled move up, those before it do not, and none is admitted twice for it."""
    bucket, entered = TokenBucket(1, 1, clock=clock), []

    async def enter(number: int) -> None:
        async with bucket:
            entered.append((number, clock()))

    async def several() -> None:
        tasks = [asyncio.create_task(enter(number)) for number in range(4)]
        await asyncio.sleep(0.5)
        tasks[2].cancel()
        tasks.append(asyncio.create_task(enter(4)))
        await asyncio.gather(*tasks, return_exceptions=True)

    clock.run(several())
    assert [number for number, _ in entered] == [0, 1, 3, 4]
    moments = [moment for _, moment in entered]
    assert moments == pytest.approx([1000, 1001, 1002, 1003], abs=LOOK_AGAIN_SECONDS)
    assert bucket.available_tokens() == pytest.approx(0, abs=LOOK_AGAIN_SECONDS)
    assert not waiting._lines


def test_an_interrupted_thread_gives_its_place_back():
    """A thread that is interrupted while it sleeps has taken nothing."""

    class Interrupted:
        now = 0.0

        def __call__(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            raise KeyboardInterrupt

    bucket = TokenBucket(1, 1, clock=Interrupted())
    assert bucket.check_and_consume()
    with pytest.raises(KeyboardInterrupt), bucket:
        pytest.fail("it may not enter")
    assert bucket.available_tokens() == 0
    assert not waiting._lines
