"""The multiplexer alone: subscribers that come, read, leave and fail together."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from llmkit_plugins import Call, ConfigError, TimedOut, UpstreamLost
from llmkit_plugins.plugins.multiplexer import StreamingMultiplexer

ASKED = [{"role": "user", "content": "hi"}]


def call(**given: Any) -> Call:
    return Call(ASKED, **given)


def test_many_subscribers_one_upstream(stage, provider):
    """Each gets every chunk, and there is one request."""
    stage, provider = stage(), provider("a", "b", "c")
    answers = stage.arun(lambda: asyncio.gather(*[stage.read(provider) for _ in range(50)]))
    assert answers == [["a", "b", "c"]] * 50
    assert (provider.began, provider.cut_off) == (1, 0)
    assert stage.multiplexer.stats().upstream_calls_saved == 49


@pytest.mark.parametrize("after", [0.5, 1.5, 2.5])
def test_a_late_joiner(stage, provider, after):
    """Who joins in the middle has what was said at once, and then the rest as it comes."""
    stage, provider = stage(), provider("a", "b", "c")

    async def joining():
        await asyncio.sleep(after)
        return [(chunk, stage.clock.now) async for chunk in stage.multiplexer.subscribe(call(), provider.stream)]

    _, late = stage.arun(lambda: asyncio.gather(stage.read(provider), joining()))
    assert late == [(chunk, max(after, said)) for chunk, said in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    assert provider.began == 1


def test_a_slow_reader(stage, provider):
    """He holds nobody up, and misses nothing."""
    stage, provider = stage(), provider("a", "b", "c")

    async def slowly():
        chunks = []
        async for chunk in stage.multiplexer.subscribe(call(), provider.stream):
            chunks.append(chunk)
            await asyncio.sleep(100.0)
        return chunks

    async def fast():
        return await stage.read(provider), stage.clock.now

    slow, (chunks, at) = stage.arun(lambda: asyncio.gather(slowly(), fast()))
    assert (slow, chunks, at) == (["a", "b", "c"], ["a", "b", "c"], 3.0)
    assert stage.clock.now == 301.0


@pytest.mark.parametrize("after", [0.5, 1.5, 2.5])
def test_the_first_one_leaves(stage, provider, after):
    """The upstream is nobody's own: it goes on for the others."""
    stage, provider = stage(), provider("a", "b", "c")

    async def scenario():
        first, other = (asyncio.ensure_future(stage.read(provider)) for _ in range(2))
        await asyncio.sleep(after)
        first.cancel()
        return await other

    assert stage.arun(scenario) == ["a", "b", "c"]
    assert (provider.began, provider.cut_off) == (1, 0)


def test_all_leave(stage, provider):
    """The last one to leave stops the upstream."""
    stage, provider = stage(), provider("a", "b", "c")

    async def scenario():
        readers = [asyncio.ensure_future(stage.read(provider)) for _ in range(3)]
        await asyncio.sleep(1.5)
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)

    stage.arun(scenario)
    assert (provider.began, provider.ended, provider.cut_off) == (1, 1, 1)


def test_an_abandoned_stream(stage, provider):
    """Who stops reading has left, once his stream is closed or collected."""
    stage, provider = stage(), provider("a", "b", "c")

    async def scenario():
        async for _ in stage.multiplexer.subscribe(call(), provider.stream):
            break
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)

    stage.arun(scenario)
    assert provider.cut_off == 1


@pytest.mark.parametrize("said", [[], ["a", "b"]])
def test_an_error(stage, provider, said):
    """Everybody gets what was said before it, and then the same error."""
    stage, provider = stage(), provider(*said, error=ConnectionError("lost"))

    async def reading():
        chunks = []
        with pytest.raises(ConnectionError, match="lost") as error:
            async for chunk in stage.multiplexer.subscribe(call(), provider.stream):
                chunks.append(chunk)
        return chunks, error.value

    ends = stage.arun(lambda: asyncio.gather(*[reading() for _ in range(3)]))
    assert ends == [(said, provider.error)] * 3
    assert provider.began == 1


def test_one_after_the_other(stage, provider):
    """What is over is asked again."""
    stage, provider = stage(), provider("a")

    async def scenario():
        return [await stage.read(provider), await stage.read(provider)]

    assert stage.arun(scenario) == [["a"], ["a"]]
    assert provider.began == 2


@pytest.mark.parametrize("other", [{"tenant": "t"}, {"model": "m"}, {"metadata": {"share": False}}])
def test_other_calls(stage, provider, other):
    """Who asks something else, or wants to be alone, has an upstream of his own."""
    stage, provider = stage(), provider("a", "b")
    calls = [call(), call(**other)]
    answers = stage.arun(lambda: asyncio.gather(*[stage.read(provider, each) for each in calls]))
    assert answers == [["a", "b"]] * 2
    assert provider.began == 2


def test_one_who_goes_alone_and_leaves(stage, provider):
    """His upstream ends with him."""
    stage, provider = stage(), provider("a", "b")

    async def scenario():
        stream = stage.multiplexer.subscribe(call(metadata={"share": False}), provider.stream)
        assert await anext(stream) == "a"
        await stream.aclose()

    stage.arun(scenario)
    assert (provider.ended, provider.cut_off) == (1, 1)


def test_whole_answers(stage, provider):
    """They are shared in the same way; a stream of the same call is something else."""
    stage, provider = stage(), provider("a", "b")

    async def scenario():
        wholes = [stage.multiplexer.answer(call(stream=number > 5), provider.answer) for number in range(10)]
        return await asyncio.gather(stage.read(provider), *wholes)

    assert stage.arun(scenario) == [["a", "b"], *["b"] * 10]
    assert provider.began == 2


def test_a_whole_answer_that_fails(stage, provider):
    """Everybody gets the error."""
    stage, provider = stage(), provider(error=ConnectionError("lost"))
    calls = [stage.multiplexer.answer(call(), provider.answer) for _ in range(3)]
    errors = stage.arun(lambda: _results(*calls))
    assert errors == [provider.error] * 3
    assert provider.began == 1


@pytest.mark.parametrize("staying", [0, 1])
def test_whole_answers_that_nobody_waits_for(stage, provider, staying):
    """The upstream ends with the last one who waits, and not before."""
    stage, provider = stage(), provider("a", "b")

    async def scenario():
        asking = [asyncio.ensure_future(stage.multiplexer.answer(call(), provider.answer)) for _ in range(3)]
        await asyncio.sleep(1.5)
        for each in asking[staying:]:
            each.cancel()
        await asyncio.wait(asking)

    stage.arun(scenario)
    assert (provider.ended, provider.cut_off) == (1, 1 - staying)


async def _results(*awaitables):
    return await asyncio.gather(*awaitables, return_exceptions=True)


def test_a_whole_answer_for_nobody_else(stage, provider):
    """What is not shared is asked for directly."""
    stage, provider = stage(), provider("a")
    alone = call(params={"n": 2})
    assert stage.arun(lambda: stage.multiplexer.answer(alone, provider.answer)) == "a"
    assert stage.multiplexer.answer_sync(alone, provider.answer_sync) == "a"
    assert list(stage.multiplexer.subscribe_sync(alone, provider.stream_sync)) == ["a"]


def test_a_client_that_opens_streams_when_awaited(stage, provider):
    """``start`` may be a coroutine function; what it opened is closed, whatever the client calls that."""
    closed = []

    class Opened:
        def __init__(self):
            self.chunks = provider("a", "b").stream()

        def __aiter__(self):
            return self.chunks

        async def close(self):
            closed.append(self)

    async def start():
        return Opened()

    stage = stage()

    async def scenario():
        return [chunk async for chunk in stage.multiplexer.subscribe(call(), start)]

    assert stage.arun(scenario) == ["a", "b"]
    assert len(closed) == 1


def test_a_client_whose_streams_are_closed(stage, provider):
    """In threads what ``start`` opened is closed too."""
    closed = []

    class Opened:
        def __init__(self):
            self.chunks = provider("a", "b").stream_sync()

        def __iter__(self):
            return self.chunks

        def close(self):
            closed.append(self)

    assert list(stage().multiplexer.subscribe_sync(call(), Opened)) == ["a", "b"]
    assert len(closed) == 1


def test_a_deadline(stage, provider):
    """A subscriber waits for a chunk no longer than he has time; the others go on."""
    stage, provider = stage(), provider("a", "b", "c")
    hasty = call(deadline=1.5)
    ends = stage.arun(lambda: _results(stage.read(provider, hasty), stage.read(provider)))
    assert isinstance(ends[0], TimedOut)
    assert ends[1] == ["a", "b", "c"]


def test_copies(stage, provider):
    """Where chunks are changed by who gets them, each subscriber has chunks of his own."""
    said = {"text": "a"}
    stage, provider = stage(copy=dict, retain_seconds=60), provider(said)

    async def scenario():
        in_time = await asyncio.gather(stage.read(provider), stage.read(provider))
        return [*in_time, await stage.read(provider)]

    answers = [chunks[0] for chunks in stage.arun(scenario)]
    answers += stage.multiplexer.subscribe_sync(call(), provider.stream_sync)
    assert answers == [said] * 4
    assert len({id(answer) for answer in [*answers, said]}) == 5


def test_copies_of_whole_answers(stage, provider):
    """The same for answers that are not streamed, also for those that come late."""
    said = {"text": "a"}
    stage, provider = stage(copy=dict, retain_seconds=60), provider(said)
    asking = [stage.multiplexer.answer(call(), provider.answer) for _ in range(2)]
    answers = [
        *stage.arun(lambda: asyncio.gather(*asking)),
        stage.multiplexer.answer_sync(call(), provider.answer_sync),
    ]
    answers.append(stage.arun(lambda: stage.multiplexer.answer(call(), provider.answer)))
    assert answers == [said] * 4
    assert len({id(answer) for answer in [*answers, said]}) == 5


def test_late_duplicates(stage, provider):
    """A finished answer serves identical calls for a while, from loops and threads alike."""
    stage, provider = stage(retain_seconds=10.0), provider("a", "b")
    assert stage.arun(lambda: stage.read(provider)) == ["a", "b"]
    assert stage.arun(lambda: stage.read(provider)) == ["a", "b"]
    assert list(stage.multiplexer.subscribe_sync(call(), provider.stream_sync)) == ["a", "b"]
    assert stage.multiplexer.answer_sync(call(), provider.answer_sync) == "b"
    assert stage.multiplexer.answer_sync(call(), provider.answer_sync) == "b"
    assert stage.arun(lambda: stage.multiplexer.answer(call(), provider.answer)) == "b"
    assert provider.began == 2
    stage.clock.advance(10.0)
    assert stage.arun(lambda: stage.read(provider)) == ["a", "b"]
    assert provider.began == 3


def test_threads(stage, provider, in_threads, eventually):
    """In threads whoever needs the next chunk reads it for all."""
    stage, provider = stage(), provider(*range(200))

    def start():
        eventually(lambda: stage.multiplexer.stats().total_subscribers == 8)
        return provider.stream_sync()

    answers = in_threads(*[lambda: list(stage.multiplexer.subscribe_sync(call(), start))] * 8)
    assert answers == [list(range(200))] * 8
    assert provider.began == 1
    assert stage.multiplexer.stats().active_requests == 0


def test_whole_answers_in_threads(stage, provider, in_threads, eventually):
    """They are shared in the same way."""
    stage, provider = stage(), provider("a", "b")

    def start():
        eventually(lambda: stage.multiplexer.stats().total_subscribers == 8)
        return provider.answer_sync()

    assert in_threads(*[lambda: stage.multiplexer.answer_sync(call(), start)] * 8) == ["b"] * 8
    assert provider.began == 1


def test_one_thread(stage, provider):
    """Subscribers of one thread share too, and may leave when they like."""
    stage, provider = stage(), provider("a", "b", "c")
    first, second = (stage.multiplexer.subscribe_sync(call(), provider.stream_sync) for _ in range(2))
    assert (next(first), next(second), next(second)) == ("a", "a", "b")
    first.close()
    assert list(second) == ["c"]
    assert (provider.began, provider.cut_off) == (1, 0)
    third = stage.multiplexer.subscribe_sync(call(), provider.stream_sync)
    assert next(third) == "a"
    third.close()
    assert (provider.began, provider.ended, provider.cut_off) == (2, 2, 1)


def test_loops_and_threads_are_kept_apart(stage, provider):
    """A stream under way in one is not joined from another."""
    stage, provider = stage(), provider("a", "b")
    in_this_thread = stage.multiplexer.subscribe_sync(call(), provider.stream_sync)
    assert next(in_this_thread) == "a"
    assert stage.clock.run(stage.read(provider)) == ["a", "b"]
    assert stage.clock.run(stage.read(provider)) == ["a", "b"]
    in_this_thread.close()
    assert provider.began == 3


def test_stats(stage, provider):
    """They tell what is under way, who reads it, what was saved and what is held."""
    stage, provider = stage(), provider("x" * 1000, "b", "c")

    async def scenario():
        readers = [asyncio.ensure_future(stage.read(provider)) for _ in range(3)]
        readers.append(asyncio.ensure_future(stage.read(provider, call(tenant="t"))))
        await asyncio.sleep(1.5)
        stats = stage.multiplexer.stats()
        await asyncio.gather(*readers)
        return stats

    stats = stage.arun(scenario)
    assert (stats.active_requests, stats.total_subscribers, stats.upstream_calls_saved) == (2, 4, 2)
    assert 2000 <= stats.bytes_held <= 2500
    assert stage.multiplexer.stats().bytes_held == 0


def test_complete_request(stage, provider):
    """Who has subscribed gets the rest; who asks now starts anew."""
    stage, provider = stage(), provider("a", "b")

    async def scenario():
        first = asyncio.ensure_future(stage.read(provider))
        await asyncio.sleep(1.5)
        assert stage.multiplexer.complete_request(call())
        assert not stage.multiplexer.complete_request(call())
        assert not stage.multiplexer.complete_request(call(params={"n": 2}))
        return await first, await stage.read(provider)

    assert stage.arun(scenario) == (["a", "b"], ["a", "b"])
    assert provider.began == 2


def test_complete_request_while_it_is_under_way(stage, provider):
    """Its answer is kept for nobody who asks later, whether or not another could still have joined."""
    stage, provider = stage(retain_seconds=60.0, max_age_seconds=1.0), provider("a", "b", "c", "d")

    async def scenario():
        readers = []
        for _ in range(2):  # the second finds the first too old
            readers.append(asyncio.ensure_future(stage.read(provider)))
            await asyncio.sleep(1.5)
        assert stage.multiplexer.complete_request(call())
        await asyncio.gather(*readers)
        await stage.read(provider)

    stage.arun(scenario)
    assert provider.began == 3


def test_who_leaves_while_it_is_counted(stage, provider):
    """A stream that the garbage collector ends in the middle of it is counted or not; the figures come all the same."""
    stage, provider = stage(), provider

    class Closes:
        """Weighing it ends another stream, as any allocation might."""

        def __sizeof__(self):
            other.close()
            return 1000

    start = provider(Closes(), "b").stream_sync
    other = stage.multiplexer.subscribe_sync(call(tenant="other"), provider("a", "b").stream_sync)
    one = stage.multiplexer.subscribe_sync(call(), start)
    next(other)
    next(one)
    assert stage.multiplexer.stats().bytes_held >= 1000
    assert stage.multiplexer.stats().active_requests == 1
    one.close()


def test_why_alone():
    """One can ask why a call is not shared."""
    multiplexer = StreamingMultiplexer()
    assert multiplexer.why_alone(call()) is None
    assert "several answers" in (multiplexer.why_alone(call(params={"n": 2})) or "")


def test_closed(stage, provider):
    """Closing stops what is under way, and its subscribers get an error that says so."""
    stage, provider = stage(), provider("a", "b")

    async def scenario():
        readers = [asyncio.ensure_future(stage.read(provider)) for _ in range(2)]
        await asyncio.sleep(1.5)
        stage.multiplexer.close()
        return await _results(*readers)

    ends = stage.arun(scenario)
    assert [type(end) for end in ends] == [UpstreamLost] * 2
    assert provider.cut_off == 1


def test_a_wrong_setting():
    """It is told which, and what would be right."""
    with pytest.raises(ConfigError, match="did you mean retain_seconds"):
        StreamingMultiplexer(retained_seconds=1)
    with pytest.raises(ConfigError, match=r"scope.*'tenant' or 'user'"):
        StreamingMultiplexer(scope="everybody")
