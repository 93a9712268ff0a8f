"""Waiting in turn."""

from __future__ import annotations

import pytest

from llmkit_plugins import Call, RateLimited, Target
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiter
from llmkit_plugins.plugins.rate_limiter.turns import LOOK_AGAIN_SECONDS

TARGET = Target("fast", "openai", "gpt-4o")


def waiting(clock, *limits: Limit, **settings: float) -> RateLimiter:
    return RateLimiter(limits, on_limit="wait", clock=clock, **settings)


def pass_time_until(clock, ticket) -> float:
    """Sleep as the ticket says; returns the seconds slept."""
    began = clock()
    for seconds in ticket.naps():
        assert 0 < seconds <= LOOK_AGAIN_SECONDS
        clock.sleep(seconds)
    return clock() - began


def test_each_waits_for_those_before(clock):
    """Whoever comes later waits one interval longer."""
    limiter = waiting(clock, Limit(requests="1/s"))
    tickets = [limiter.acquire() for _ in range(4)]
    assert [ticket.wait for ticket in tickets] == pytest.approx([0, 1, 2, 3])
    assert tickets[1].over is not None
    assert (tickets[1].over.limit, tickets[1].over.retry_after) == ("requests 1/s", pytest.approx(1))
    assert tickets[0].over is None
    assert pass_time_until(clock, tickets[1]) == pytest.approx(1)
    assert pass_time_until(clock, tickets[3]) == pytest.approx(2)


def test_keys_do_not_wait_for_each_other(clock):
    """Each key has a line of its own."""
    limiter = waiting(clock, Limit(requests="1/s", per=("user",)))
    waits = [limiter.acquire(user=user).wait for user in ("ann", "ann", "bob", "ann", "bob")]
    assert waits == pytest.approx([0, 1, 0, 2, 1])


def test_who_would_wait_too_long_is_refused_at_once(clock):
    """Beyond the longest wait nothing is taken, and the wait it would have been is told."""
    limiter = waiting(clock, Limit(requests="1/s"), max_wait_seconds=2)
    assert [limiter.acquire().wait for _ in range(3)] == pytest.approx([0, 1, 2])
    for _ in range(3):
        with pytest.raises(RateLimited) as caught:
            limiter.acquire()
        assert caught.value.retry_after == pytest.approx(3)
    with pytest.raises(RateLimited):
        limiter.acquire(max_wait_seconds=2.5)
    assert limiter.acquire(max_wait_seconds=3.5).wait == pytest.approx(3)


def test_the_deadline_of_the_call_bounds_the_wait(clock):
    """A call that would have to wait past its deadline is refused at once."""
    limiter = waiting(clock, Limit(requests="1/s", per=("user",)))
    limiter.request(Call(user="ann"))
    with pytest.raises(RateLimited):
        limiter.request(Call(user="ann", deadline=clock() + 0.5))
    with pytest.raises(RateLimited):
        limiter.request(Call(user="ann", deadline=clock() - 5))
    assert limiter.request(Call(user="ann", deadline=clock() + 1.5)).wait == pytest.approx(1)


def test_who_gives_up_moves_those_behind_up(clock):
    """A place given back is taken by the next, not by whoever comes, and those before do not notice."""
    limiter = waiting(clock, Limit(requests="1/s"))
    tickets = [limiter.acquire() for _ in range(5)]
    tickets[2].refund()
    assert [ticket.wait for ticket in tickets] == pytest.approx([0, 1, 0, 2, 3])
    assert limiter.acquire().wait == pytest.approx(4)


def test_a_call_that_used_less_than_expected_moves_the_line_up(clock):
    """Tokens that turn out not to be needed come to those who wait."""
    limiter = waiting(clock, Limit(tokens="100/s"))
    first = limiter.acquire(input_tokens=100)
    others = [limiter.acquire(input_tokens=100) for _ in range(2)]
    assert [ticket.wait for ticket in others] == pytest.approx([1, 2])
    first.settle(50, 0)
    assert [ticket.wait for ticket in others] == pytest.approx([0.5, 1.5])


def test_a_call_that_used_more_than_expected_moves_the_line_back(clock):
    """A debt is paid before the next goes, and who thereby loses patience gets all it had taken back."""
    limiter = waiting(clock, Limit(tokens="100/s", name="tpm"), Limit(requests="3/min"), max_wait_seconds=2.5)
    first = limiter.acquire(input_tokens=100)
    second, third = limiter.acquire(input_tokens=100), limiter.acquire(input_tokens=100)
    first.settle(200, 0)
    assert [second.wait, third.wait] == pytest.approx([2, 3])
    clock.advance(2.6)
    assert second.wait == 0
    with pytest.raises(RateLimited) as caught:
        list(third.naps())
    assert (caught.value.limit, caught.value.retry_after) == ("tpm", pytest.approx(0.4))
    assert third.wait == 0
    assert limiter.acquire(input_tokens=1).wait == pytest.approx(0, abs=0.001)


def test_whose_turn_has_come_cannot_lose_it(clock):
    """Who sleeps when its turn comes is not pushed back by those who come then."""
    limiter = waiting(clock, Limit(requests="1/s"))
    limiter.acquire()
    sleeper = limiter.acquire()
    clock.advance(1.5)
    assert limiter.acquire().wait == pytest.approx(0.5)
    assert limiter.acquire().wait == pytest.approx(1.5)
    assert sleeper.wait == 0


def test_several_levels_make_one_wait(clock):
    """A call waits for the slowest of its levels."""
    limiter = waiting(clock, Limit(requests="1/s", per=("user",)), Limit(requests="2/s", burst=1, per=("model",)))
    limiter.acquire(model="m", user="ann")
    assert limiter.acquire(model="m", user="bob").wait == pytest.approx(0.5)
    both = limiter.acquire(model="m", user="ann")
    assert both.wait == pytest.approx(1)
    assert both.over is not None
    assert both.over.limit == "requests 1/s per user"


def test_permits_are_handed_over_in_order(clock):
    """A permit that comes free is the first waiter's, not a newcomer's."""
    limiter = waiting(clock, Limit(concurrency=1))
    running = limiter.acquire()
    first, second = limiter.acquire(), limiter.acquire()
    assert first.wait > 0
    running.release()
    newcomer = limiter.acquire()
    assert [first.wait, second.wait > 0, newcomer.wait > 0] == [0, True, True]
    first.release()
    assert [newcomer.wait > 0, second.wait] == [True, 0]


def test_who_waits_for_a_rate_holds_no_permit(clock):
    """A permit is taken only when the rate admits, so that others can use it."""
    limiter = waiting(clock, Limit(requests="1/s", per=("user",)), Limit(concurrency=1))
    limiter.acquire(user="ann").release()
    slow = limiter.acquire(user="ann")
    assert slow.wait == pytest.approx(1)
    quick = limiter.acquire(user="bob")
    assert quick.wait == 0
    clock.advance(1)
    assert slow.wait > 0
    quick.release()
    clock.advance(slow.wait)
    assert slow.wait == 0


def test_who_waits_in_vain_for_a_permit_is_refused(clock):
    """After the longest wait a waiter gets its tokens back and an error; the line goes on without it."""
    limiter = waiting(clock, Limit(concurrency=1, name="slots"), Limit(requests="2/h"), max_wait_seconds=3)
    running, waiter = limiter.acquire(), limiter.acquire()
    with pytest.raises(RateLimited) as caught:
        pass_time_until(clock, waiter)
    assert clock() == pytest.approx(1003)
    assert caught.value.limit == "slots"
    assert limiter.stats()["slots"].refused == 1
    with pytest.raises(RateLimited) as again:
        pass_time_until(clock, limiter.acquire())
    assert again.value.retry_after == caught.value.retry_after, "how long it waited says nothing of how long calls take"
    running.release()
    assert limiter.acquire().wait == 0


def test_a_waiter_that_vanished_does_not_block_the_line(clock):
    """A waiter that is never heard of again is passed over when its patience would have ended."""
    limiter = waiting(clock, Limit(concurrency=1), max_wait_seconds=3)
    running = limiter.acquire()
    limiter.acquire()
    clock.advance(2)
    patient = limiter.acquire()
    running.release()
    clock.advance(1.9)
    assert patient.wait > 0
    clock.advance(0.2)
    assert patient.wait == 0


def test_a_waiter_who_looks_much_too_late(clock):
    """Whose thread or event loop was held up has waited in vain, like anybody, and has not vanished."""
    limiter = waiting(clock, Limit(concurrency=1, name="slots"), max_wait_seconds=3)
    running, late = limiter.acquire(), limiter.acquire()
    assert late.wait > 0
    clock.advance(60)
    with pytest.raises(RateLimited, match="slots"):
        _ = late.wait
    running.release()
    assert limiter.acquire().wait == 0


def test_a_waiter_that_was_passed_over_is_refused_when_it_comes_back(clock):
    """Its place went to those behind it: it has no permit, and is not let through without one."""
    limiter = waiting(clock, Limit(concurrency=1, name="slots"), max_wait_seconds=3)
    running, late = limiter.acquire(), limiter.acquire()
    clock.advance(2)
    patient = limiter.acquire()
    clock.advance(2.5)
    assert patient.wait > 0
    with pytest.raises(RateLimited, match="slots") as caught:
        _ = late.wait
    assert caught.value.retry_after > 0
    late.refund()
    running.release()
    assert patient.wait == 0
    after_it = limiter.acquire()
    assert after_it.wait > 0
    patient.release()
    assert after_it.wait == 0


def test_a_runner_that_vanished_does_not_block_the_line(clock):
    """The permit of a call that is never heard of again goes to the first waiter when its lease ends."""
    limiter = waiting(clock, Limit(concurrency=1), lease_seconds=1, max_wait_seconds=30)
    limiter.acquire()
    waiter = limiter.acquire()
    assert 1 <= pass_time_until(clock, waiter) <= 1.5
    clock.advance(0.5)
    assert limiter.acquire().wait > 0


def test_a_lease_begins_when_the_turn_has_come(clock):
    """Who waited for its permit has it as long as who did not, and no longer."""
    limiter = waiting(clock, Limit(concurrency=1), lease_seconds=20, max_wait_seconds=100)
    running, second = limiter.acquire(), limiter.acquire()
    clock.advance(10)
    running.release()
    assert second.wait == 0
    third = limiter.acquire()
    assert pass_time_until(clock, third) == pytest.approx(20, abs=LOOK_AGAIN_SECONDS)


def test_closed_naps_give_the_place_back(clock):
    """Who stops waiting before its turn has taken nothing."""
    limiter = waiting(clock, Limit(requests="1/s"))
    limiter.acquire()
    naps = limiter.acquire().naps()
    assert next(naps) == LOOK_AGAIN_SECONDS
    assert limiter.acquire().wait == pytest.approx(2)
    naps.close()
    assert limiter.acquire().wait == pytest.approx(2)


def test_a_lone_with_block_waits(clock):
    """A with block begins when its turn has come."""
    limiter = waiting(clock, Limit(requests="1/s"))
    for moment in (1000, 1001, 1002):
        with limiter.acquire():
            assert clock() == pytest.approx(moment)


def test_tasks_wait_in_order(clock):
    """Tasks enter in the order in which they came, one per interval."""
    import asyncio

    limiter, order = waiting(clock, Limit(requests="2/s", burst=1)), []

    async def enter(number: int) -> None:
        async with limiter.acquire():
            order.append((number, clock()))

    async def several() -> None:
        await asyncio.gather(*[enter(number) for number in range(5)])

    clock.run(several())
    assert [number for number, _ in order] == list(range(5))
    assert [moment for _, moment in order] == pytest.approx([1000, 1000.5, 1001, 1001.5, 1002])


def test_a_cancelled_task_gives_its_place_back(clock):
    """A task that is cancelled while it waits moves the others up."""
    import asyncio

    limiter, entered = waiting(clock, Limit(requests="1/s")), []

    async def enter(number: int) -> None:
        async with limiter.acquire():
            entered.append((number, clock()))

    async def several() -> None:
        tasks = [asyncio.create_task(enter(number)) for number in range(4)]
        await asyncio.sleep(0.5)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    clock.run(several())
    assert entered == [(0, 1000), (2, pytest.approx(1001, abs=LOOK_AGAIN_SECONDS)), (3, pytest.approx(1002, abs=0.25))]


def test_waits_are_counted(clock):
    """How many waited for a limit, and how long, is told when they go."""
    limiter = waiting(clock, Limit(requests="1/s", name="rps"))
    tickets = [limiter.acquire() for _ in range(3)]
    for ticket in tickets:
        pass_time_until(clock, ticket)
    stats = limiter.stats()["rps"]
    assert (stats.waited, stats.waited_seconds, stats.refused) == (2, pytest.approx(3), 0)


def test_no_line_is_left_when_nobody_waits(clock):
    """Lines are made when somebody waits, and go with the last who does."""
    limiter = waiting(clock, Limit(requests="1/s", per=("user",)), Limit(concurrency=1, per=("user",)))
    tickets = [limiter.acquire(user="ann") for _ in range(6)]
    tickets[3].refund()
    for ticket in (tickets[0], tickets[1], tickets[2], tickets[4]):
        pass_time_until(clock, ticket)
        ticket.release()
    tickets[5].refund()
    assert not any(level.lines for level in limiter._levels)
    assert not limiter._books.leases


def test_a_line_forgets_those_who_vanished(clock):
    """Waiters whose turn came and who never asked do not pile up."""
    limiter = waiting(clock, Limit(requests="10/s", burst=1))
    for _ in range(100):
        limiter.acquire()
        limiter.acquire()
        clock.advance(0.2)
    (level,) = limiter._levels
    assert len(level.lines[()].places) <= 2


def test_attempts_wait_too(clock):
    """An attempt waits for its target as a request does for its user."""
    limiter = waiting(clock, Limit(requests="1/s", per=("target",)))
    limiter.attempt(Call(), TARGET)
    ticket = limiter.attempt(Call(), TARGET)
    assert pass_time_until(clock, ticket) == pytest.approx(1)
