"""Whose turn it is where processes share a limit: asked seldom, in order, and never for longer than somebody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

import pytest

from llmkit_plugins import Ask, Attempt, Backend, Call, LLMKit, RateLimited, RateLimiter, Target
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiterPlugin
from llmkit_plugins.plugins.rate_limiter.shared import share
from llmkit_plugins.plugins.rate_limiter.ticket import Ticket
from llmkit_plugins.stores.redis import UNREACHABLE, Claim, Reply
from llmkit_plugins.testing import ManualClock

TAKEN = Reply(taken=True)
PERMIT_SHORT = Reply(taken=False, short=0, seconds=1e-6)


class Instant(Backend):
    async def asend(self, call: Call, attempt: Attempt | None) -> Any:
        return "answer"


class Scripted:
    """A store that answers as it is told, each time after so many *seconds*."""

    def __init__(self, clock: ManualClock, answers: Iterable[Reply], seconds: float = 0.0) -> None:
        self.clock, self.answers, self.seconds = clock, iter(answers), seconds
        self.asked: list[list[str]] = []
        self.given_back: list[Claim] = []

    def take(self, claims: list[Claim], patience: float) -> Reply:
        self.asked.append([claim.key.split(":")[1] for claim in claims])
        self.clock.advance(self.seconds)
        return next(self.answers)

    atake: Any = take

    def shift(self, claims: list[Claim]) -> None:
        self.given_back += claims


def shares(store: Any, ticket: Ticket, until: float) -> tuple[bool, list[float]]:
    """Whether it could be asked, and how long it slept each time."""
    steps, answer, naps = share(store, ticket, until), None, []
    try:
        while True:
            step = steps.send(answer)
            if isinstance(step, Ask):
                answer = step.run()
            else:
                naps.append(step.seconds)
                ticket.books.clock.advance(step.seconds)  # type: ignore[attr-defined]
    except StopIteration as end:
        return end.value, naps


def taken(clock: ManualClock, **settings: Any) -> Ticket:
    limiter = RateLimiter([Limit(requests="60/min", concurrency=2)], on_limit="wait", clock=clock, **settings)
    return limiter.request(Call("question"))


def test_requests_are_waited_for_once_and_permits_after_them():
    """Who waits for a rate holds no permit meanwhile."""
    clock = ManualClock()
    store = Scripted(clock, [Reply(taken=True, short=1, seconds=2.0), PERMIT_SHORT, TAKEN])
    shared, naps = shares(store, taken(clock), 10.0)
    assert shared
    assert store.asked == [["concurrency", "requests"], ["concurrency"], ["concurrency"]]
    assert naps == [2.0, pytest.approx(0.25)]


def test_who_waits_long_asks_less_often():
    """It is asked a few times a second at most, however soon a permit may come back."""
    clock = ManualClock()
    store = Scripted(clock, [*repeat(PERMIT_SHORT, 60), TAKEN])
    _, naps = shares(store, taken(clock), 100.0)
    assert naps[0] == 0.005
    assert naps[-1] == 0.25
    assert sorted(naps) == naps


def test_asking_takes_time_as_well():
    """Nobody waits longer than he may because it is slow; what he has taken is given back."""
    clock = ManualClock()
    store = Scripted(clock, repeat(PERMIT_SHORT), seconds=0.4)
    ticket = taken(clock)
    with pytest.raises(RateLimited):
        shares(store, ticket, 3.0)
    assert clock() < 3.0 + 0.5
    assert not ticket.held


def test_who_is_refused_a_permit_after_a_rate_gives_the_rate_back():
    """All or none."""
    clock = ManualClock()
    store = Scripted(clock, [Reply(taken=True, short=1, seconds=2.0), *repeat(PERMIT_SHORT, 99)])
    with pytest.raises(RateLimited, match="concurrency"):
        shares(store, taken(clock), 3.0)
    assert [claim.step for claim in store.given_back if not claim.holder] == [-1.0]


def test_the_lease_begins_when_the_turn_comes():
    """Not when the wait does; and a permit whose lease ended meanwhile is given back to the others all the same."""
    clock = ManualClock()
    ticket = taken(clock, lease_seconds=5.0)
    shares(Scripted(clock, [Reply(taken=True, short=1, seconds=4.0), TAKEN]), ticket, 10.0)
    assert ticket.leased_until == clock() + 5.0

    late = taken(clock, lease_seconds=5.0)
    store = Scripted(clock, [Reply(taken=True, short=1, seconds=6.0), TAKEN])
    steps = share(store, late, clock() + 10.0)  # type: ignore[arg-type]
    wait = steps.send(steps.send(None).run())
    clock.advance(wait.seconds)
    assert late.books.reclaim()
    with pytest.raises(StopIteration):
        steps.send(steps.send(None).run())
    late.release()
    late.release()
    assert [bool(claim.holder) for claim in store.given_back] == [True]


def test_where_it_stops_answering_the_call_goes_on():
    """What it has taken by then it gives back in the end."""
    clock = ManualClock()
    store, ticket = Scripted(clock, [Reply(taken=True, short=1, seconds=2.0), UNREACHABLE]), taken(clock)
    assert shares(store, ticket, 10.0) == (False, [2.0])
    ticket.refund()
    assert [claim.step for claim in store.given_back if not claim.holder] == [-1.0]


def process(server: Any, limit: Limit, **settings: Any) -> LLMKit:
    return LLMKit([RateLimiterPlugin(limits=[limit], store=server.url, **settings)], [Target("a", "p", "m")])


async def test_who_waits_for_requests_asks_once(server):
    """Thirty callers of three processes make thirty scripts, and not hundreds."""
    kits = [process(server, Limit(requests="100/s", burst=1, per="user"), on_limit="wait") for _ in range(3)]
    server.client.config_resetstat()
    await asyncio.gather(*[kit.acall(Call("question", user="ann"), Instant()) for kit in kits for _ in range(10)])
    assert server.client.info("commandstats")["cmdstat_eval"]["calls"] == 30


async def test_who_comes_later_is_served_later(server, eventually: Callable[..., Any]):
    """In whichever process; who goes away gives his turn back."""
    limit = Limit(requests="1/min", burst=1, per="user")
    patient = process(server, limit, on_limit="wait", max_wait_seconds=100)
    await process(server, limit).acall(Call("question", user="ann"), Instant())
    waiting = asyncio.ensure_future(patient.acall(Call("question", user="ann"), Instant()))

    async def wait_told() -> float:
        with pytest.raises(RateLimited) as refused:
            await process(server, limit).acall(Call("question", user="ann"), Instant())
        return float(refused.value.retry_after or 0.0)

    (key,) = server.client.keys()
    await asyncio.to_thread(eventually, lambda: server.client.pttl(key) > 60_000)
    assert 110 < await wait_told() <= 120
    waiting.cancel()
    await asyncio.wait([waiting])
    await asyncio.to_thread(eventually, lambda: server.client.pttl(key) <= 60_000)
    assert 50 < await wait_told() <= 60
