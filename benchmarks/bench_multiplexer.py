"""The multiplexer beside what else makes one call of many: keys, identical calls, chunks, memory, leaving.

Times are this process's own (what is slept, and what other processes take, does not count), but for leaving. Peers that
are not installed are left out: async_lru, aiocache, singleflight (where the first caller takes the others along when he
is cancelled, or leaves them with None), asyncstdlib.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import importlib
import json
import os
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import openai
from interleaved import Contender, measure, rounds_from_command_line, show

from llmkit_plugins import Attempt, Backend, Call, LLMKit, Target
from llmkit_plugins.plugins.multiplexer import MultiplexerConfig, MultiplexerPlugin, StreamingMultiplexer
from llmkit_plugins.plugins.multiplexer.key import Keys
from llmkit_plugins.testing.fake_provider import FakeProvider

CLOCK = time.process_time
CALLERS = 10_000
SUBSCRIBERS, CHUNKS = 1_000, 200
TARGETS = [Target("a", "provider", "model")]
loop = asyncio.new_event_loop()


def peer(name: str) -> Any:
    """The module of a peer; None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def run(coroutine: Callable[[], Awaitable[float]]) -> Contender:
    """A contender that is a coroutine function. What was there before is not the garbage collector's business."""

    def contender() -> float:
        gc.collect()
        gc.freeze()
        try:
            return loop.run_until_complete(coroutine())
        finally:
            gc.unfreeze()

    return contender


# -- the key ----------------------------------------------------------------------------------------------------------


def conversation(messages: int, characters: int) -> list[dict[str, str]]:
    """One of fresh texts, which nobody has hashed or encoded yet."""
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": os.urandom(characters // 2).hex()} for n in range(messages)]


def per_key(key: Callable[[Call], Any], messages: int, characters: int) -> Contender:
    def contender() -> float:
        params = {"temperature": 0, "max_tokens": 100}
        calls = [Call(conversation(messages, characters), "model", params=params) for _ in range(50)]
        begun = CLOCK()
        for call in calls:
            key(call)
        return (CLOCK() - begun) / 50

    return contender


def as_json(call: Call) -> str:
    return hashlib.sha256(json.dumps([call.model, call.messages, call.params], sort_keys=True).encode()).hexdigest()


def keys(rounds: int) -> None:
    ours = Keys(MultiplexerConfig()).of
    sizes = {
        "one message of 20": (1, 20),
        "10 messages of 2,000": (10, 2_000),
        "20 of 1,000": (20, 1_000),
        "10 of 20,000": (10, 20_000),
    }
    contenders = {f"key, {name}": per_key(ours, *size) for name, size in sizes.items()}
    contenders |= {f"sorted JSON and SHA-256, {name}": per_key(as_json, *size) for name, size in sizes.items()}
    budgets = {"key, 10 messages of 2,000": 25.0, "key, 20 of 1,000": 25.0}
    show("the key of a call, fresh texts", measure(contenders, rounds), "key, one message of 20", budgets)


# -- identical calls --------------------------------------------------------------------------------------------------


class Upstream(Backend):
    """Answers after ten milliseconds, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    async def answer(self, *_: Any, **__: Any) -> str:
        self.calls += 1
        await asyncio.sleep(0.01)
        return "answer"

    async def asend(self, call: Call, attempt: Attempt | None) -> Any:
        return await self.answer()


def a_call() -> Call:
    return Call([{"role": "user", "content": "hi"}], "model", params={"temperature": 0})


async def all_at_once(
    name: str, asks: Callable[[Upstream], Callable[[Call], Awaitable[Any]]], upstreams: Mapping[str, list[int]]
) -> float:
    """Seconds per caller of many with the same call."""
    upstream = Upstream()
    ask, calls = asks(upstream), [a_call() for _ in range(CALLERS)]
    gc.collect()
    gc.freeze()
    begun = CLOCK()
    await asyncio.gather(*[ask(call) for call in calls])
    taken = CLOCK() - begun
    upstreams[name].append(upstream.calls)
    return taken / CALLERS


def through_kit(upstream: Upstream) -> Callable[[Call], Awaitable[Any]]:
    kit = LLMKit([MultiplexerPlugin()], TARGETS)
    return lambda call: kit.acall(call, upstream)


def bare(upstream: Upstream) -> Callable[[Call], Awaitable[Any]]:
    multiplexer = StreamingMultiplexer()
    return lambda call: multiplexer.answer(call, upstream.answer)


def with_async_lru(upstream: Upstream) -> Callable[[Call], Awaitable[Any]]:
    cached = peer("async_lru").alru_cache(maxsize=8)(upstream.answer)
    return lambda call: cached(call.model, call.messages[0]["content"])


def with_aiocache(upstream: Upstream) -> Callable[[Call], Awaitable[Any]]:
    cached = peer("aiocache").cached_stampede(lease=2, ttl=1)(upstream.answer)
    return lambda call: cached(call.model, call.messages[0]["content"])


def with_singleflight(upstream: Upstream) -> Callable[[Call], Awaitable[Any]]:
    flight = peer("singleflight.asynchronous").SingleFlightAsync()
    return lambda call: flight.call(upstream.answer, call.messages[0]["content"])


def with_a_shielded_task(upstream: Upstream) -> Callable[[Call], Awaitable[Any]]:
    tasks: dict[str, asyncio.Task[Any]] = {}

    async def ask(call: Call) -> Any:
        key = call.messages[0]["content"]
        if key not in tasks:
            tasks[key] = asyncio.create_task(upstream.answer())
            tasks[key].add_done_callback(lambda _: tasks.pop(key, None))
        return await asyncio.shield(tasks[key])

    return ask


def nothing(_: Upstream) -> Callable[[Call], Awaitable[Any]]:
    async def ask(call: Call) -> None:
        pass

    return ask


def identical_calls(rounds: int) -> None:
    asks = {
        "an empty coroutine": nothing,
        "bare": bare,
        "through a kit": through_kit,
        "a shielded task": with_a_shielded_task,
    }
    others = {"async_lru": with_async_lru, "aiocache": with_aiocache, "singleflight": with_singleflight}
    asks |= {name: ask for name, ask in others.items() if peer(name)}
    upstreams: dict[str, list[int]] = {name: [] for name in asks}
    contenders = {name: run(partial(all_at_once, name, asks[name], upstreams)) for name in asks}
    medians = measure(contenders, rounds)
    show(f"{CALLERS:,} identical calls, each", medians, "an empty coroutine", {"bare": 12.5, "through a kit": 28.6})
    for name, seconds in medians.items():
        print(f"  {name:44} {1 / seconds:10,.0f} /s, upstream calls: {max(upstreams[name])}")


# -- chunks -----------------------------------------------------------------------------------------------------------


class Talking(Backend):
    """Says so many chunks, giving way to the event loop before each, once all subscribers are there."""

    begun = 0.0

    def __init__(self, subscribers: int = SUBSCRIBERS) -> None:
        self.half = asyncio.Event()
        self.subscribers = subscribers

    async def say(self) -> AsyncIterator[Any]:
        yield "first"
        await asyncio.sleep(0.02)
        self.begun = CLOCK()
        for number in range(CHUNKS):
            if number == CHUNKS // 2:
                self.half.set()
            await asyncio.sleep(0)
            yield "chunk"

    async def astream(self, call: Call, attempt: Attempt | None) -> AsyncIterator[Any]:
        async for chunk in self.say():
            yield chunk


async def exhaust(chunks: AsyncIterator[Any]) -> None:
    async for _ in chunks:
        pass


Subscribe = Callable[[Talking], Callable[[], AsyncIterator[Any]]]


def subscribe_bare(talking: Talking) -> Callable[[], AsyncIterator[Any]]:
    multiplexer = StreamingMultiplexer()
    return lambda: multiplexer.subscribe(a_call(), talking.say)


def subscribe_kit(talking: Talking) -> Callable[[], AsyncIterator[Any]]:
    kit = LLMKit([MultiplexerPlugin()], TARGETS)
    return lambda: kit.astream(a_call(), talking)


def subscribe_queues(talking: Talking) -> Callable[[], AsyncIterator[Any]]:
    """What one writes oneself: a queue for each subscriber, filled with what was said before he came."""
    said: list[Any] = []
    queues: list[asyncio.Queue[Any]] = []

    async def fan_out() -> None:
        async for chunk in talking.say():
            said.append(chunk)
            for queue in queues:
                queue.put_nowait(chunk)
        for queue in queues:
            queue.put_nowait(None)

    async def read() -> AsyncIterator[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        for chunk in said:
            queue.put_nowait(chunk)
        if not queues:
            talking.task = asyncio.create_task(fan_out())
        queues.append(queue)
        while (chunk := await queue.get()) is not None:
            yield chunk

    return read


def subscribe_tee(talking: Talking) -> Callable[[], AsyncIterator[Any]]:
    streams = iter(peer("asyncstdlib").tee(talking.say(), n=talking.subscribers, lock=asyncio.Lock()))
    return lambda: next(streams)


async def delivered(subscribe: Subscribe, *, half_late: bool) -> float:
    """Seconds per chunk and subscriber, once all (or the first half) are there."""
    talking = Talking()
    read = subscribe(talking)

    async def late() -> None:
        await talking.half.wait()
        await exhaust(read())

    readers = [late() if half_late and number % 2 else exhaust(read()) for number in range(SUBSCRIBERS)]
    await asyncio.gather(*readers)
    return (CLOCK() - talking.begun) / (SUBSCRIBERS * CHUNKS)


async def woken() -> float:
    """The event loop's own price of waking so many tasks so often."""

    async def wake() -> None:
        for _ in range(CHUNKS):
            await asyncio.sleep(0)

    begun = CLOCK()
    await asyncio.gather(*[wake() for _ in range(SUBSCRIBERS)])
    return (CLOCK() - begun) / (SUBSCRIBERS * CHUNKS)


def chunks(rounds: int) -> None:
    subscribes = {"bare": subscribe_bare, "through a kit": subscribe_kit, "asyncio.Queue each": subscribe_queues}
    for half_late in (False, True):
        contenders = {"loop wake-up": run(woken)}
        contenders |= {n: run(partial(delivered, s, half_late=half_late)) for n, s in subscribes.items()}
        if peer("asyncstdlib") and not half_late:
            contenders["asyncstdlib.tee"] = run(partial(delivered, subscribe_tee, half_late=False))
        medians = measure(contenders, rounds)
        budget = round(1.3e6 * medians["loop wake-up"], 2)
        who = "half of whom join half-way" if half_late else "all there from the start"
        title = f"a chunk to one of {SUBSCRIBERS:,} subscribers, {who}"
        show(title, medians, "loop wake-up", {"bare": budget, "through a kit": budget})


# -- memory -----------------------------------------------------------------------------------------------------------


async def held(read: Callable[[], Awaitable[Any]], times: int = SUBSCRIBERS) -> float:
    """Bytes for each of so many tasks that wait in *read*, the task included."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tasks = [asyncio.ensure_future(read()) for _ in range(times)]
    await asyncio.sleep(0.05)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return (after - before) / times


class Waiting(Backend):
    """Says one chunk of *size* characters, and then nothing more."""

    def __init__(self, size: int = 1) -> None:
        self.size = size

    async def say(self) -> AsyncIterator[Any]:
        yield "x" * self.size
        await asyncio.sleep(60)

    async def astream(self, call: Call, attempt: Attempt | None) -> AsyncIterator[Any]:
        async for chunk in self.say():
            yield chunk


def memory() -> None:
    same, numbers = a_call(), iter(range(10**9))

    def another() -> Call:
        return Call(f"call {next(numbers)}", "model")

    def bare_on(call: Callable[[], Call], size: int = 1) -> Callable[[], Awaitable[Any]]:
        multiplexer, say = StreamingMultiplexer(), Waiting(size).say
        return lambda: exhaust(multiplexer.subscribe(call(), say))

    def kit_on(call: Callable[[], Call], *plugins: MultiplexerPlugin) -> Callable[[], Awaitable[Any]]:
        kit, backend = LLMKit(plugins, TARGETS), Waiting()
        return lambda: exhaust(kit.astream(call(), backend))

    def alone(call: Callable[[], Call]) -> Callable[[], Awaitable[Any]]:
        say = Waiting().say
        return lambda: exhaust(said) if (said := say()) and call() else asyncio.sleep(0)

    queued: list[Any] = []

    async def in_queue() -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        queued.append(queue)
        await queue.get()

    def line(name: str, size: float, budget: float | None = None) -> None:
        verdict = "" if budget is None else f"   budget {budget:,.0f} B: {'met' if size <= budget else 'MISSED'}"
        print(f"  {name:60} {size:10,.0f} B{verdict}")

    def bytes_of(read: Callable[[], Awaitable[Any]]) -> float:
        return loop.run_until_complete(held(read))

    print("\nmemory, each of 1,000, with its task")
    line("a task that waits for an asyncio.Queue", bytes_of(in_queue))
    line("bare subscriber", bytes_of(bare_on(lambda: same)), 1_536)
    line("subscriber through a kit, with its call", bytes_of(kit_on(a_call, MultiplexerPlugin())), 3_584)
    streams, own = bytes_of(alone(another)), bytes_of(bare_on(another))
    line("one subscriber each of distinct streams, without multiplexer", streams)
    line("the same, multiplexed", own)
    line("  of which the multiplexer's state", own - streams, 5_243)
    streams, own = bytes_of(kit_on(another)), bytes_of(kit_on(another, MultiplexerPlugin()))
    line("the same through a kit without a plugin", streams)
    line("the same, multiplexed", own)
    line("  of which the multiplexer's state", own - streams, 5_243)
    line(
        "a bare subscriber of a stream that has said a million",
        bytes_of(bare_on(lambda: same, 10**6)),
        1_536 + 10**6 / SUBSCRIBERS,
    )


# -- leaving ----------------------------------------------------------------------------------------------------------


async def disconnected() -> float:
    """Seconds from the last subscriber's leaving to the provider's seeing the connection closed, over HTTP."""
    with FakeProvider(per_token_seconds=600.0) as provider:
        async with openai.AsyncOpenAI(base_url=provider.url, api_key="any") as client:
            multiplexer = StreamingMultiplexer()
            messages = [{"role": "user", "content": "hi"}]

            def start() -> Any:
                return client.chat.completions.create(model="model", messages=messages, stream=True)

            streams = [multiplexer.subscribe(Call(messages), start) for _ in range(10)]
            for stream in streams:
                await anext(stream)
            seen = loop.run_in_executor(
                None, lambda: (provider.wait_until(lambda s: s.clients_left == 1), time.perf_counter())[1]
            )
            await asyncio.sleep(0.05)
            begun = time.perf_counter()
            for stream in streams:
                await stream.aclose()
            return await seen - begun


def main() -> None:
    rounds = rounds_from_command_line(default=7)
    keys(rounds)
    identical_calls(rounds)
    chunks(min(rounds, 5))
    memory()
    left = measure({"seen by the provider": lambda: loop.run_until_complete(disconnected())}, rounds)
    show(
        "the last of ten subscribers leaves, over HTTP",
        left,
        "seen by the provider",
        {"seen by the provider": 100_000.0},
    )
    loop.close()


if __name__ == "__main__":
    main()
