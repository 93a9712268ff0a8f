"""Limits that processes keep together, each played by a kit of its own, in a real Redis."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from llmkit_plugins import Attempt, Backend, Call, LLMKit, Target, Usage
from llmkit_plugins.errors import RateLimited
from llmkit_plugins.events import LimitReached, StoreUnreachable
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiterPlugin


class Instant(Backend):
    """Answers at once with so many *tokens*, or fails."""

    def __init__(self, tokens: int | None = None, error: Exception | None = None) -> None:
        self.tokens, self.error = tokens, error

    def send(self, call: Call, attempt: Attempt | None) -> Any:
        assert attempt is not None
        if self.error is not None:
            raise self.error
        if self.tokens is not None:
            attempt.usage = Usage(output_tokens=self.tokens)
        return "answer"

    async def asend(self, call: Call, attempt: Attempt | None) -> Any:
        return self.send(call, attempt)

    def stream(self, call: Call, attempt: Attempt | None) -> Iterator[Any]:
        yield self.send(call, attempt)

    async def astream(self, call: Call, attempt: Attempt | None) -> AsyncIterator[Any]:
        yield self.send(call, attempt)


class Held(Instant):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()

    async def asend(self, call: Call, attempt: Attempt | None) -> Any:
        await self.let.wait()
        return "answer"


def process(server: Any, *limits: Limit, targets: str = "a", **settings: Any) -> LLMKit:
    """What one process is: a kit, and a limiter that knows nothing of the others but through Redis."""
    plugin = RateLimiterPlugin(limits=limits, store=server.url, **settings)
    return LLMKit([plugin], [Target(name, "p", "m") for name in targets], on_plugin_error="raise")


async def ask(kit: LLMKit, way: str, user: str = "ann", backend: Backend | None = None) -> bool:
    """Make a call; False where it is refused."""
    call, backend = Call("question", user=user), backend or Instant()
    try:
        match way:
            case "call":
                kit.call(call, backend)
            case "acall":
                await kit.acall(call, backend)
            case "stream":
                list(kit.stream(call, backend))
            case "astream":
                [_ async for _ in kit.astream(call, backend)]
            case "begin":
                kit.begin(call, Target("a", "p", "m"), backend).finish("answer")
            case "abegin":
                (await kit.abegin(call, Target("a", "p", "m"), backend)).finish("answer")
    except RateLimited:
        return False
    return True


WAYS = ["call", "acall", "stream", "astream", "begin", "abegin"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("per", ["user", "target"])
async def test_two_processes_keep_one_limit(server, way, per):
    """Six of twelve calls by turns are admitted; who is refused learns by which limit, and for how long."""
    first, second = (process(server, Limit(requests="6/h", per=per)) for _ in range(2))
    admitted = [await ask(kit, way) for _ in range(6) for kit in (first, second)]
    assert admitted == [True] * 6 + [False] * 6
    with pytest.raises(RateLimited) as refused:
        process(server, Limit(requests="6/h", per=per)).call(Call("question", user="ann"), Instant())
    assert refused.value.limit == f"requests 6/h per {per}"
    assert 500 < refused.value.retry_after <= 600


async def test_each_key_has_its_own(server):
    """What one user spends is not another's."""
    first, second = (process(server, Limit(requests="2/h", per="user")) for _ in range(2))
    assert [await ask(kit, "call", user) for user in ("ann", "bob") for kit in (first, second, first)] == [
        True,
        True,
        False,
    ] * 2


def test_all_limits_or_none(server):
    """A call that the second limit refuses takes nothing from the first, here or there."""
    small, large = Limit(requests="1/h", per="user", name="small"), Limit(requests="3/h", name="large")
    first, second = process(server, small, large), process(server, small, large)
    first.call(Call("question", user="ann"), Instant())
    for _ in range(5):
        with pytest.raises(RateLimited, match="small"):
            second.call(Call("question", user="ann"), Instant())
    third = process(server, large)
    assert [asyncio.run(ask(third, "call")) for _ in range(3)] == [True, True, False]


async def test_what_was_expected_is_settled_to_what_was_used(server):
    """Tokens that one process did not use, others may; a debt is everybody's."""
    limit = Limit(output_tokens="1000/h", per="user")
    first, second = process(server, limit), process(server, limit)
    assert await ask(first, "acall", backend=Instant(tokens=10))
    first.plugins["rate_limiter"].store.flush(5)
    state = float(server.client.get(server.client.keys()[0]))
    seconds, microseconds = server.client.time()
    assert state - (seconds * 1e6 + microseconds) == pytest.approx(10 * 3.6e6, abs=2e6)
    assert await ask(first, "acall", backend=Instant(tokens=5000))
    first.plugins["rate_limiter"].store.flush(5)
    assert not await ask(second, "acall")


@pytest.mark.parametrize("per", ["user", "target"])
async def test_who_was_never_answered_gets_it_back(server, keys, per):
    """A failed provider's tokens are given back, and its permit; a refused caller's request too."""
    kit = process(server, Limit(tokens="1000/h", per=per), Limit(concurrency=1, per=per))
    for _ in range(3):
        with pytest.raises(ValueError):
            await kit.acall(Call("question", user="ann"), Instant(error=ValueError("no")))
    kit.plugins["rate_limiter"].store.flush(5)
    assert keys() == []


async def test_permits_are_counted_across_processes(server, eventually):
    """Two at once are two at once, wherever they run; the third has one when the first is done."""
    limit = Limit(concurrency=2, per="target")
    first, second = process(server, limit), process(server, limit)
    backend = Held()
    under_way = [asyncio.ensure_future(kit.acall(Call("question"), backend)) for kit in (first, second)]
    await asyncio.to_thread(eventually, lambda: sum(map(server.client.zcard, server.client.keys())) == 2)
    assert not await ask(first, "acall")
    assert not await ask(second, "acall")
    backend.let.set()
    await asyncio.gather(*under_way)
    eventually(lambda: not server.client.keys())
    assert await ask(second, "acall")


async def test_a_permit_nobody_gives_back_returns(server):
    """A process that died does not hold it longer than its lease."""
    limit = Limit(concurrency=1)
    died = process(server, limit, lease_seconds=0.2)
    died.begin(Call("question"), Target("a", "p", "m"))
    alive = process(server, limit)
    assert not await ask(alive, "acall")
    await asyncio.sleep(0.25)
    assert await ask(alive, "acall")


@pytest.mark.parametrize("way", ["call", "acall"])
async def test_waiting_for_what_another_process_spent(server, way):
    """With ``wait``, a call waits for its turn in all processes, and it is told how long."""
    limit = Limit(requests="5/s", burst=1, per="user")
    first, second = (process(server, limit, on_limit="wait") for _ in range(2))
    told: list[LimitReached] = []
    second.events.subscribe(LimitReached, told.append)
    began = time.monotonic()
    assert await ask(first, way)
    assert await ask(second, way)
    assert time.monotonic() - began >= 0.18
    assert [(event.action, event.limit) for event in told] == [("waited", "requests 5/s per user")]
    assert second.plugins["rate_limiter"].limiter.stats()["requests 5/s per user"].waited == 1


async def test_who_cannot_wait_so_long_is_refused_at_once(server, keys):
    """Neither patience nor a deadline is exceeded, and what was taken here is given back."""
    limit = Limit(requests="1/min", per="user")
    first, second = (process(server, limit, on_limit="wait", max_wait_seconds=0.1) for _ in range(2))
    assert await ask(first, "acall")
    began = time.monotonic()
    assert not await ask(second, "acall")
    assert not await ask(second, "begin")  # an inline callback
    assert time.monotonic() - began < 0.1
    server.client.flushall()
    assert await ask(second, "acall")


async def test_in_shadow_mode_it_only_counts(server):
    """Nobody is refused; it is told what would have been."""
    first, second = (process(server, Limit(requests="1/h", per="user"), on_limit="shadow") for _ in range(2))
    told: list[LimitReached] = []
    second.events.subscribe(LimitReached, told.append)
    assert [await ask(kit, "acall") for kit in (first, second, second)] == [True] * 3
    assert [event.action for event in told] == ["passed", "passed"]


async def test_a_target_that_others_have_used_up_is_passed_over(server):
    """The process did not know; the call goes to the other target all the same."""
    limit = Limit(requests="1/h", per="target")
    first, second = process(server, limit, targets="ab"), process(server, limit, targets="ab")
    calls = [Call("question") for _ in range(2)]
    await first.acall(calls[0], Instant())
    await second.acall(calls[1], Instant())
    assert [call.attempts[-1].target.name for call in calls] == ["a", "b"]
    assert [attempt.outcome for attempt in calls[1].attempts] == ["refused", "ok"]


async def test_who_is_cancelled_while_asking_has_taken_nothing(server, keys, eventually):
    """At whichever moment: what Redis gave all the same is given back."""
    kit = process(server, Limit(requests="1000/h", per="user"), Limit(concurrency=50))
    for pause in range(60):
        task = asyncio.ensure_future(kit.acall(Call("question", user="ann"), Held()))
        for _ in range(pause // 10):
            await asyncio.sleep(0.0002 * (pause % 10))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    kit.plugins["rate_limiter"].store.flush(5)
    eventually(lambda: all(key.startswith("{llmkit}:requests") for key in keys()))
    requests = sum(float(server.client.get(key)) for key in server.client.scan_iter())
    seconds, microseconds = server.client.time()
    ahead = max(requests - (seconds * 1e6 + microseconds), 0) / 3.6e6
    assert ahead <= 60  # those that were under way keep their request, and none is counted twice


async def test_limits_of_one_name_that_count_different_things(server):
    """One application's permits are not another's requests, nor those it had before."""
    for limit in (
        Limit(requests="2/h", name="users"),
        Limit(concurrency=2, name="users"),
        Limit(tokens="1000/h", name="users"),
    ):
        store = process(server, limit)
        told: list[StoreUnreachable] = []
        store.events.subscribe(StoreUnreachable, told.append)
        assert await ask(store, "acall")
        assert told == []


async def test_keys_tell_nobody_who_asks(server, keys):
    """The name of the limit and a digest."""
    kit = process(server, Limit(requests="5/h", per=("user", "metadata.key")))
    await kit.acall(Call("question", user="ann@example.org", metadata={"key": "sk-secret"}), Instant())
    (key,) = keys()
    assert key.startswith("{llmkit}:requests:requests 5/h per user and metadata.key:")
    assert "ann" not in key
    assert "secret" not in key


def test_what_is_kept_goes_by_itself(server):
    """A counter lives as long as it differs from one that nobody has used."""
    kit = process(server, Limit(requests="1/m", burst=1, per="user"), Limit(concurrency=1, name="permits"))
    kit.begin(Call("question", user="ann"), Target("a", "p", "m"))
    for key in server.client.scan_iter():
        assert 0 < server.client.pttl(key) <= (600_001 if b"permits" in key else 60_002)


def _hammer(url: str, calls: int, admitted: Any) -> None:
    plugin = RateLimiterPlugin(limits=[Limit(requests="100/h", per="user"), Limit(tokens="1_000_000_000/h")], store=url)
    kit, count = LLMKit([plugin], [Target("a", "p", "m")]), 0
    for _ in range(calls):
        try:
            kit.call(Call("question", user="ann"), Instant())
        except RateLimited:
            continue
        count += 1
    kit.close()
    admitted.put(count)


def test_real_processes_at_the_same_time(server):
    """Three that hammer one limit of a hundred get a hundred together."""
    context = multiprocessing.get_context("spawn")
    admitted = context.Queue()
    processes = [context.Process(target=_hammer, args=(server.url, 80, admitted)) for _ in range(3)]
    for one in processes:
        one.start()
    counts = [admitted.get(timeout=60) for _ in processes]
    for one in processes:
        one.join(20)
    assert sum(counts) == 100


def test_a_forked_process_asks_by_itself(server):
    """Its parent's thread and connection are not its own."""
    kit = process(server, Limit(requests="3/h", per="user"))
    assert asyncio.run(ask(kit, "call"))

    def child(told: Any) -> None:
        told.put([asyncio.run(ask(kit, "call")) for _ in range(3)])

    context = multiprocessing.get_context("fork")
    told = context.Queue()
    forked = context.Process(target=child, args=(told,))
    forked.start()
    assert told.get(timeout=20) == [True, True, False]
    forked.join(20)
