"""Law 1 for streams that nobody reads to the end: closed, dropped, collected as garbage, or outlived by their loop."""

from __future__ import annotations

import asyncio
import gc

import pytest

from llmkit_plugins import Call
from llmkit_plugins.testing import Last, Pause

pytestmark = pytest.mark.usefixtures("collector")

CANCELLED = {"request": 1, "attempt": 1, "attempt cancelled": 1, "request cancelled": 1}


def drop_in_a_cycle(stream):
    cycle = [stream]
    cycle.append(cycle)


@pytest.mark.parametrize("read", [1, 2])
@pytest.mark.parametrize("how", ["close", "del", "garbage", "throw"])
def test_a_sync_stream(scene, sharing, how, read):
    """However it is let go, everybody hears that it was cancelled, and the provider's stream is closed."""
    stage = scene(*sharing)
    stream = stage.kit.stream(Call("hi"), stage.backend)
    for _ in range(read):
        next(stream)
    if how == "close":
        stream.close()
    elif how == "throw":
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt)
    elif how == "garbage":
        drop_in_a_cycle(stream)
    del stream
    gc.collect()
    assert stage.settled()
    assert stage.counts == CANCELLED


def test_an_error_of_the_consumer_is_not_the_providers(scene, sharing):
    """An exception thrown into the stream by whoever reads it ends the call, and is of no kind."""
    stage = scene(*sharing)
    call = Call("hi")
    stream = stage.kit.stream(call, stage.backend)
    next(stream)
    with pytest.raises(ConnectionResetError):
        stream.throw(ConnectionResetError())
    assert call.outcome == "error"
    assert len(stage.backend.sent) == 1


@pytest.mark.parametrize("read", [1, 2])
@pytest.mark.parametrize("how", ["aclose", "break", "del", "garbage"])
def test_an_async_stream(scene, sharing, how, read):
    """The same under an event loop, which closes what is dropped some turns later."""
    stage = scene(*sharing, script={"a": ["x", "y", Pause(60.0), "z"]})

    async def scenario():
        stream = stage.kit.astream(Call("hi"), stage.backend)
        for _ in range(read - 1):
            await anext(stream)
        async for _ in stream:
            break
        if how == "aclose":
            await stream.aclose()
        elif how == "garbage":
            drop_in_a_cycle(stream)
        del stream
        gc.collect()

    stage.arun(scenario)
    assert stage.settled()
    assert stage.counts == CANCELLED


@pytest.mark.parametrize("read", [1, 2])
def test_an_async_stream_whose_loop_ends(scene, sharing, read):
    """A stream that is still open when the event loop shuts down ends with it."""
    stage = scene(*sharing)
    streams = []

    async def scenario():
        streams.append(stage.kit.astream(Call("hi"), stage.backend))
        for _ in range(read):
            await anext(streams[0])

    stage.clock.run(scenario())
    assert stage.settled()
    assert stage.counts["request cancelled"] == 1


@pytest.mark.filterwarnings("ignore")
def test_an_async_stream_whose_loop_was_closed_brutally(scene, sharing):
    """A loop that is closed without shutting down leaves the ends to the garbage collector."""
    stage = scene(*sharing)
    loop = asyncio.new_event_loop()
    stream = stage.kit.astream(Call("hi"), stage.backend)
    loop.run_until_complete(anext(stream))
    loop.close()
    del stream, loop
    gc.collect()
    assert stage.settled()
    assert stage.counts["request cancelled"] == 1


def test_streams_and_coroutines_that_never_began(scene, sharing):
    """Nobody hears of a call that was made and never begun."""
    stage = scene(*sharing)
    stage.kit.stream(Call("hi"), stage.backend).close()

    async def scenario():
        await stage.kit.astream(Call("hi"), stage.backend).aclose()
        stage.kit.acall(Call("hi"), stage.backend).close()

    stage.arun(scenario)
    assert not stage.counts


@pytest.mark.parametrize("streamed", ["stream", "astream"])
def test_left_after_the_last_word(scene, sharing, streamed):
    """Who leaves after the finish reason has the whole answer: the attempt and the call ended well."""
    stage = scene(*sharing, script={"a": ["x", Last("y"), "usage"]})
    call = Call("hi")
    if streamed == "stream":
        stream = stage.kit.stream(call, stage.backend)
        assert [next(stream), next(stream)] == ["x", "y"]
        stream.close()
    else:

        async def scenario():
            stream = stage.kit.astream(call, stage.backend)
            assert [await anext(stream), await anext(stream)] == ["x", "y"]
            await stream.aclose()

        stage.arun(scenario)
    assert (call.outcome, call.attempts[0].outcome, call.response.finish_reason) == ("ok", "ok", "stop")
    assert call.response.usage.output_tokens == 3
    assert stage.counts == {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1}


def test_closed_from_another_thread(scene, sharing, in_threads):
    """A sync stream begun in one thread may be closed in another."""
    stage = scene(*sharing)
    stream = stage.kit.stream(Call("hi"), stage.backend)
    in_threads(lambda: next(stream))
    in_threads(stream.close)
    assert stage.counts == CANCELLED
