"""The whole lifecycle with 0, 1 and 5 trivial plugins, beside a bare call and beside pluggy's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pluggy
from interleaved import Contender, measure, rounds_from_command_line, show

from llmkit_plugins import Attempt, Backend, Call, LLMKit, Share, Target, hookimpl, hookspecs

CLOCK = time.perf_counter
CALLS = 1_000
CHUNKS = 500
MESSAGES = [{"role": "user", "content": "hi"}]
TARGETS = [Target(name, "provider", "model") for name in ("a", "b", "c")]


class Instant(Backend):
    """Answers at once, in as many chunks as asked."""

    def __init__(self, chunks: int = 1) -> None:
        self.chunks = chunks

    def send(self, call: Call, attempt: Attempt | None) -> Any:
        return "answer"

    async def asend(self, call: Call, attempt: Attempt | None) -> Any:
        return "answer"

    def stream(self, call: Call, attempt: Attempt | None) -> Iterator[Any]:
        for _ in range(self.chunks):
            yield "chunk"

    async def astream(self, call: Call, attempt: Attempt | None) -> AsyncIterator[Any]:
        for _ in range(self.chunks):
            yield "chunk"


class Ticking(Instant):
    """Gives way to the event loop before each chunk, as a network does."""

    async def astream(self, call: Call, attempt: Attempt | None) -> AsyncIterator[Any]:
        for _ in range(self.chunks):
            await asyncio.sleep(0)
            yield "chunk"


class Trivial:
    """Implements every hook and does nothing."""

    @hookimpl
    def llmkit_pre_request(self, call):
        pass

    @hookimpl
    def llmkit_route(self, call, targets):
        return targets

    @hookimpl
    def llmkit_pre_attempt(self, call, attempt):
        pass

    @hookimpl
    def llmkit_post_attempt(self, call, attempt):
        pass

    @hookimpl
    def llmkit_post_response(self, call, response):
        pass

    @hookimpl
    def llmkit_error(self, call, error):
        pass


class ShareAll:
    """Every call shares one upstream."""

    @hookimpl
    def llmkit_pre_request(self, call):
        return Share("all")


def per_call(work: Callable[[], Any], times: int = CALLS) -> Contender:
    def run() -> float:
        begun = CLOCK()
        for _ in range(times):
            work()
        return (CLOCK() - begun) / times

    return run


def per_await(loop: asyncio.AbstractEventLoop, work: Callable[[], Awaitable[Any]], times: int = CALLS) -> Contender:
    async def go() -> float:
        begun = CLOCK()
        for _ in range(times):
            await work()
        return (CLOCK() - begun) / times

    return lambda: loop.run_until_complete(go())


def exhaust(chunks: Iterator[Any]) -> None:
    for _ in chunks:
        pass


async def aexhaust(chunks: AsyncIterator[Any]) -> None:
    async for _ in chunks:
        pass


def pluggy_itself(plugins: int) -> Contender:
    manager = pluggy.PluginManager("llmkit")
    manager.add_hookspecs(hookspecs)
    for n in range(plugins):
        manager.register(Trivial(), f"trivial-{n}")
    call, hook = Call(MESSAGES), manager.hook
    return per_call(lambda: hook.llmkit_pre_request(call=call))


def shared_wake_up(loop: asyncio.AbstractEventLoop, callers: int) -> tuple[Contender, Contender]:
    """A chunk to one of many callers of a shared stream, once all are there, and the event loop's own wake-up of as
    many tasks."""
    kit, chunks = LLMKit([ShareAll()], TARGETS), 200

    class WhenAllAreThere(Ticking):
        async def astream(self, call: Call, attempt: Attempt | None) -> AsyncIterator[Any]:
            yield "first"
            await asyncio.sleep(0.01)
            self.begun = CLOCK()
            async for chunk in super().astream(call, attempt):
                yield chunk

    async def share() -> float:
        backend = WhenAllAreThere(chunks)
        await asyncio.gather(*[aexhaust(kit.astream(Call(MESSAGES), backend)) for _ in range(callers)])
        return (CLOCK() - backend.begun) / (callers * chunks)

    async def wake() -> None:
        for _ in range(chunks):
            await asyncio.sleep(0)

    async def floor() -> float:
        begun = CLOCK()
        await asyncio.gather(*[wake() for _ in range(callers)])
        return (CLOCK() - begun) / (callers * chunks)

    return lambda: loop.run_until_complete(share()), lambda: loop.run_until_complete(floor())


def many_into_one(loop: asyncio.AbstractEventLoop, callers: int = 10_000) -> Contender:
    kit = LLMKit([ShareAll()], TARGETS)

    class Slow(Instant):
        async def asend(self, call: Call, attempt: Attempt | None) -> Any:
            await asyncio.sleep(0.01)
            return "answer"

    async def go() -> float:
        calls, backend = [Call(MESSAGES) for _ in range(callers)], Slow()
        begun = CLOCK()
        await asyncio.gather(*[kit.acall(call, backend) for call in calls])
        return (CLOCK() - begun - 0.01) / callers

    return lambda: loop.run_until_complete(go())


def main() -> None:
    rounds = rounds_from_command_line()
    loop = asyncio.new_event_loop()
    kits = {f"{n} plugins": LLMKit([Trivial() for _ in range(n)], TARGETS) for n in (0, 1, 5)}
    one, many = Instant(), Instant(CHUNKS)
    five = {"5 plugins": 8.0}

    words = {
        "Call": per_call(lambda: Call(MESSAGES), 5_000),
        "Call and Attempt": per_call(lambda: (Call(MESSAGES), Attempt(1, TARGETS[0])), 5_000),
    }
    show("words", measure(words, rounds), "Call", {"Call and Attempt": 1.0})

    sync = {"bare": per_call(lambda: one.send(None, None))}
    sync |= {name: per_call(lambda kit=kit: kit.call(Call(MESSAGES), one)) for name, kit in kits.items()}
    sync |= {f"pluggy, one hook of {n}": pluggy_itself(n) for n in (0, 1, 5)}
    show("a call, sync", measure(sync, rounds), "bare")

    awaited = {"bare await": per_await(loop, lambda: one.asend(None, None))}
    awaited |= {n: per_await(loop, lambda kit=kit: kit.acall(Call(MESSAGES), one)) for n, kit in kits.items()}
    show("a call, async", measure(awaited, rounds), "bare await", five)

    streamed = {"bare": per_call(lambda: exhaust(one.stream(None, None)))}
    streamed |= {n: per_call(lambda kit=kit: exhaust(kit.stream(Call(MESSAGES), one))) for n, kit in kits.items()}
    show("a stream of one chunk, sync", measure(streamed, rounds), "bare")

    def chunk(contender: Contender) -> Contender:
        return lambda: contender() / CHUNKS

    chunks = {"bare": chunk(per_call(lambda: exhaust(many.stream(None, None)), 20))}
    chunks |= {
        n: chunk(per_call(lambda kit=kit: exhaust(kit.stream(Call(MESSAGES), many)), 20)) for n, kit in kits.items()
    }
    show("a chunk, sync", measure(chunks, rounds), "bare", {"5 plugins": 0.15})

    achunks = {"bare": chunk(per_await(loop, lambda: aexhaust(many.astream(None, None)), 20))}
    achunks |= {
        n: chunk(per_await(loop, lambda kit=kit: aexhaust(kit.astream(Call(MESSAGES), many)), 20))
        for n, kit in kits.items()
    }
    show("a chunk, async", measure(achunks, rounds), "bare", {"5 plugins": 0.15})

    for callers in (100, 1000):
        shared, floor = shared_wake_up(loop, callers)
        show(
            f"a chunk to one of {callers} callers of a shared stream",
            measure({"loop wake-up": floor, "shared": shared}, min(rounds, 5)),
            "loop wake-up",
        )

    async def nothing() -> None:
        pass

    async def gather_nothing() -> float:
        begun = CLOCK()
        await asyncio.gather(*[nothing() for _ in range(10_000)])
        return (CLOCK() - begun) / 10_000

    into_one = {"an empty coroutine": lambda: loop.run_until_complete(gather_nothing()), "a call": many_into_one(loop)}
    show("10,000 identical calls into one", measure(into_one, min(rounds, 5)), "an empty coroutine", {"a call": 28.6})
    loop.close()


if __name__ == "__main__":
    main()
