"""Subscribers come, read, leave and are cancelled, upstreams say, fail and end, in any order: nobody misses or doubles
a chunk, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmkit_plugins import Call
from llmkit_plugins.plugins.multiplexer import StreamingMultiplexer
from llmkit_plugins.testing import ManualClock

PROMPTS = st.sampled_from(["one", "other"])
WHO = st.integers(0, 7)
MOST_CHUNKS = 4
MAX_AGE = 10.0


class Failed(Exception):
    """What an upstream fails with."""


class Upstream:
    """One upstream request: what it has said, and how it went on."""

    def __init__(self, prompt: str, clock: ManualClock) -> None:
        self.prompt, self.clock, self.born = prompt, clock, clock.now
        self.said: list[Any] = []
        self.going = True
        self.sealed = self.closed = False
        self.failure: Failed | None = None

    def joinable(self) -> bool:
        young = self.clock.now - self.born <= MAX_AGE
        return self.going and not self.sealed and young and len(self.said) <= MOST_CHUNKS

    def next_chunk(self) -> tuple[int, int]:
        chunk = (id(self), len(self.said))
        self.said.append(chunk)
        return chunk


class Subscriber:
    """One who reads: what he got so far, of which upstream, and whether he is still there."""

    def __init__(self, stream: Any, upstream: Upstream) -> None:
        self.stream, self.upstream = stream, upstream
        self.got: list[Any] = []
        self.there = True
        self.reading: asyncio.Task[Any] | None = None


class Subscribers(RuleBasedStateMachine):
    """What the machine of tasks and that of threads have in common: who is there, and who has joined whom."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.multiplexer = StreamingMultiplexer(
            clock=self.clock, max_age_seconds=MAX_AGE, max_chunks_per_stream=MOST_CHUNKS
        )
        self.upstreams: list[Upstream] = []
        self.subscribers: list[Subscriber] = []
        self.flights: set[Any] = set()

    def joined(self, prompt: str) -> Upstream:
        """The upstream that who asks *prompt* now must get: the newest that can be joined, else one that begins."""
        newest = next((u for u in reversed(self.upstreams) if u.prompt == prompt), None)
        if newest is None or not newest.joinable():
            newest = Upstream(prompt, self.clock)
            self.upstreams.append(newest)
        return newest

    def there(self) -> list[Subscriber]:
        return [subscriber for subscriber in self.subscribers if subscriber.there]

    def one(self, number: int) -> Subscriber:
        there = self.there()
        return there[number % len(there)]

    def going(self) -> list[Upstream]:
        return [upstream for upstream in self.upstreams if upstream.going]

    def left(self, subscriber: Subscriber) -> None:
        """He is gone; the last one stops his upstream."""
        subscriber.there = False
        if not any(other.upstream is subscriber.upstream for other in self.there()):
            subscriber.upstream.going = False

    @rule(seconds=st.sampled_from([1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(prompt=PROMPTS)
    def complete_request(self, prompt: str) -> None:
        self.multiplexer.complete_request(Call(prompt))
        for upstream in self.upstreams:
            upstream.sealed = upstream.sealed or upstream.prompt == prompt

    @invariant()
    def everybody_has_what_was_said(self) -> None:
        for subscriber in self.subscribers:
            assert subscriber.got == subscriber.upstream.said[: len(subscriber.got)]

    @invariant()
    def the_books_agree(self) -> None:
        self.flights |= self.multiplexer.flights.under_way
        stats = self.multiplexer.stats()
        assert stats.active_requests == len(self.going())
        assert stats.total_subscribers == sum(subscriber.upstream.going for subscriber in self.there())
        assert stats.upstream_calls_saved == len(self.subscribers) - len(self.upstreams)

    def nothing_is_left(self) -> None:
        flights = self.multiplexer.flights
        assert not flights.under_way
        assert not flights.joinable
        assert all(flight.over and not flight.waiting and flight.seats == 0 for flight in self.flights)
        assert all(upstream.closed for upstream in self.upstreams)


class Tasks(Subscribers):
    """Under asyncio: a subscriber may be waiting for a chunk while all else happens."""

    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.changed: dict[int, asyncio.Event] = {}

    def turn(self) -> None:
        """Let everybody do what he can."""

        async def turns() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        for subscriber in self.there():
            self.collect(subscriber)

    def collect(self, subscriber: Subscriber) -> None:
        """What became of the read he was waiting for."""
        reading = subscriber.reading
        if reading is None:
            return
        more = len(subscriber.got) < len(subscriber.upstream.said)
        assert reading.done() == (more or not subscriber.upstream.going)
        if not reading.done():
            return
        subscriber.reading = None
        if more:
            subscriber.got.append(reading.result())
            return
        subscriber.there = False
        error = reading.exception()
        assert (
            error is subscriber.upstream.failure
            if subscriber.upstream.failure
            else isinstance(error, StopAsyncIteration)
        )

    async def stream(self, upstream: Upstream) -> AsyncIterator[Any]:
        said = 0
        try:
            while True:
                while said < len(upstream.said):
                    said += 1
                    yield upstream.said[said - 1]
                if not upstream.going:
                    break
                event = self.changed[id(upstream)] = asyncio.Event()
                await event.wait()
            if upstream.failure is not None:
                raise upstream.failure
        finally:
            upstream.closed = True

    def tell(self, upstream: Upstream) -> None:
        if id(upstream) in self.changed:
            self.changed.pop(id(upstream)).set()

    @rule(prompt=PROMPTS)
    def subscribe(self, prompt: str) -> None:
        upstream = self.joined(prompt)
        stream = self.multiplexer.subscribe(Call(prompt), lambda: self.stream(upstream))
        self.subscribers.append(Subscriber(stream, upstream))
        self.start_reading(self.subscribers[-1])
        self.turn()

    def start_reading(self, subscriber: Subscriber) -> None:
        if subscriber.reading is None:
            subscriber.reading = self.loop.create_task(anext(subscriber.stream))

    @precondition(lambda self: self.there())
    @rule(number=WHO)
    def read(self, number: int) -> None:
        self.start_reading(self.one(number))
        self.turn()

    @precondition(lambda self: self.there())
    @rule(numbers=st.sets(WHO, min_size=1), close=st.booleans())
    def leave(self, numbers: set[int], close: bool) -> None:
        """Some are cancelled where they wait, or close the stream they do not read, all at once."""
        leaving = {id(subscriber): subscriber for subscriber in map(self.one, numbers)}.values()
        closing = []
        for subscriber in leaving:
            if subscriber.reading is not None:
                subscriber.reading.cancel()
            elif close:
                closing.append(self.loop.create_task(subscriber.stream.aclose()))
            else:
                subscriber.stream = None
            self.left(subscriber)
        gc.collect(0)
        self.turn()
        for subscriber in leaving:
            assert subscriber.reading is None or subscriber.reading.cancelled()
        assert all(task.done() for task in closing)

    @precondition(lambda self: self.going())
    @rule(number=WHO, many=st.integers(1, 3))
    def say(self, number: int, many: int) -> None:
        upstream = self.going()[number % len(self.going())]
        for _ in range(many):
            upstream.next_chunk()
        self.tell(upstream)
        self.turn()

    @precondition(lambda self: self.going())
    @rule(number=WHO, fails=st.booleans())
    def end(self, number: int, fails: bool) -> None:
        upstream = self.going()[number % len(self.going())]
        upstream.failure = Failed() if fails else None
        upstream.going = False
        self.tell(upstream)
        self.turn()

    @invariant()
    def there_is_a_task_for_each_upstream_and_reader(self) -> None:
        reading = sum(subscriber.reading is not None for subscriber in self.there())
        assert len(asyncio.all_tasks(self.loop)) == len(self.going()) + reading

    def teardown(self) -> None:
        for number in range(len(self.there())):
            if number % 2:
                self.leave({0}, close=True)
        while self.there():
            for upstream in self.going():
                upstream.going = False
                self.tell(upstream)
            self.turn()
            for subscriber in self.there():
                self.start_reading(subscriber)
        self.turn()
        assert not asyncio.all_tasks(self.loop)
        self.nothing_is_left()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


class Pulls(Subscribers):
    """In a thread: whoever reads on pulls the next chunk; it is there, or the upstream ends or fails, at once."""

    def __init__(self) -> None:
        super().__init__()
        self.threads = set(threading.enumerate())

    def stream(self, upstream: Upstream) -> Iterator[Any]:
        try:
            while upstream.going:
                yield upstream.next_chunk()
            if upstream.failure is not None:
                raise upstream.failure
        finally:
            upstream.closed = True

    @rule(prompt=PROMPTS)
    def subscribe(self, prompt: str) -> None:
        upstream = self.joined(prompt)
        stream = self.multiplexer.subscribe_sync(Call(prompt), lambda: self.stream(upstream))
        subscriber = Subscriber(stream, upstream)
        self.subscribers.append(subscriber)
        subscriber.got.append(next(stream))

    @precondition(lambda self: self.there())
    @rule(number=WHO, ends=st.sampled_from(["not", "not", "not", "well", "badly"]))
    def read(self, number: int, ends: str) -> None:
        """He reads on; where he is the one to pull, the upstream may end with that."""
        subscriber = self.one(number)
        upstream = subscriber.upstream
        if len(subscriber.got) < len(upstream.said) or (ends == "not" and upstream.going):
            subscriber.got.append(next(subscriber.stream))
            return
        if upstream.going:
            upstream.going, upstream.failure = False, Failed() if ends == "badly" else None
        subscriber.there = False
        try:
            next(subscriber.stream)
        except StopIteration:
            assert upstream.failure is None
        except Failed as failure:
            assert failure is upstream.failure
        else:
            raise AssertionError("there was one chunk too many")

    @precondition(lambda self: self.there())
    @rule(number=WHO, closes=st.booleans())
    def leave(self, number: int, closes: bool) -> None:
        subscriber = self.one(number)
        if closes:
            subscriber.stream.close()
        subscriber.stream = None
        self.left(subscriber)

    def teardown(self) -> None:
        while self.there():
            self.leave(0, closes=True)
        gc.collect(1)  # young garbage: a whole collection takes long where other tests have loaded much
        self.nothing_is_left()
        assert set(threading.enumerate()) <= self.threads


TestTasks = Tasks.TestCase
TestTasks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPulls = Pulls.TestCase
TestPulls.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(0, 40),
    fails=st.booleans(),
    readers=st.lists(st.integers(0, 60), min_size=1, max_size=6),
)
def test_threads(length: int, fails: bool, readers: list[int]) -> None:
    """Threads read so many chunks each and leave: each gets a beginning of what its upstream said, without a gap."""
    multiplexer = StreamingMultiplexer()
    upstreams: list[dict[str, Any]] = []
    before = set(threading.enumerate())

    def start() -> Iterator[Any]:
        upstream = {"number": len(upstreams), "closed": False}
        upstreams.append(upstream)
        try:
            for chunk in range(length):
                yield upstream["number"], chunk
            if fails:
                raise Failed
        finally:
            upstream["closed"] = True

    ends: list[tuple[list[Any], bool]] = []

    def read(most: int) -> None:
        got: list[Any] = []
        stream = multiplexer.subscribe_sync(Call("hi"), start)
        try:
            for chunk in stream:
                got.append(chunk)
                if len(got) >= most:
                    break
            else:
                assert not fails
        except Failed:
            assert len(got) == length
        stream.close()
        ends.append((got, len(got) < most))

    threads = [threading.Thread(target=read, args=(most,)) for most in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert len(ends) == len(readers)
    for got, to_the_end in ends:
        number = got[0][0] if got else None
        assert got == [(number, chunk) for chunk in range(len(got))]
        assert not to_the_end or len(got) == length
    assert (len(multiplexer.flights), multiplexer.flights.joinable) == (0, {})
    assert all(upstream["closed"] for upstream in upstreams)
    assert set(threading.enumerate()) <= before
