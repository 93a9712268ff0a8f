"""What is held has bounds: beyond them a caller goes upstream himself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmkit_plugins import Call
from llmkit_plugins.plugins.multiplexer import MultiplexerConfig
from llmkit_plugins.plugins.multiplexer.retained import Retained
from llmkit_plugins.testing import ManualClock

ASKED = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    "bound", [{"max_age_seconds": 1.0}, {"max_chunks_per_stream": 1}, {"max_bytes_per_stream": 80}]
)
@pytest.mark.parametrize(("after", "upstreams"), [(0.9, 1), (2.5, 2)])
def test_a_stream_that_is_too_old_or_too_long(stage, provider, bound, after, upstreams):
    """It is finished for those who are there; the next caller starts another, and that is joined."""
    stage, provider = stage(**bound), provider("a", "b", "c")

    async def late():
        await asyncio.sleep(after)
        return await asyncio.gather(stage.read(provider), stage.read(provider))

    first, others = stage.arun(lambda: asyncio.gather(stage.read(provider), late()))
    assert [first, *others] == [["a", "b", "c"]] * 3
    assert provider.began == upstreams


def test_too_many_streams(stage, provider):
    """Callers beyond the bound go alone; those of a stream under way still join it."""
    stage, provider = stage(max_streams=1), provider("a", "b")
    calls = [Call(ASKED), Call(ASKED), Call("other"), Call("other")]
    answers = stage.arun(lambda: asyncio.gather(*[stage.read(provider, each) for each in calls]))
    assert answers == [["a", "b"]] * 4
    assert provider.began == 3


class Landed:
    """A flight that ended well."""

    def __init__(self, key: int, *log: Any, stream: bool = True) -> None:
        self.key, self.log, self.call = (key, stream, None), list(log), Call("hi")

    def held_bytes(self) -> int:
        return sum(map(len, self.log))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def retained(clock: ManualClock) -> Retained:
    return Retained(MultiplexerConfig(retain_seconds=10, max_retained_answers=3, max_retained_bytes=10), clock)


def kept(retained: Retained) -> list[int]:
    return [number for number in range(10) if retained.get(number, stream=True) is not None]


def test_answers_are_kept_for_a_while(retained: Retained, clock: ManualClock):
    """And no longer."""
    retained.keep(Landed(1, "a"))
    clock.advance(9.9)
    assert retained.get(1, stream=True) is not None
    clock.advance(0.1)
    assert retained.get(1, stream=True) is None
    assert (len(retained), retained.held_bytes()) == (0, 0)


def test_so_many_are_kept(retained: Retained):
    """The one used longest ago goes first."""
    for number in (1, 2, 3):
        retained.keep(Landed(number, "a"))
    retained.get(1, stream=True)
    retained.keep(Landed(4, "a"))
    assert kept(retained) == [1, 3, 4]


def test_so_much_is_kept(retained: Retained):
    """So many bytes in all; one that is larger than that is not kept at all."""
    retained.keep(Landed(1, "aaaa"))
    retained.keep(Landed(2, "aaaa"))
    retained.keep(Landed(3, "aaaa"))
    assert (kept(retained), retained.held_bytes()) == ([2, 3], 8)
    retained.keep(Landed(4, "a" * 11))
    assert kept(retained) == [2, 3]


def test_one_key_is_kept_once(retained: Retained):
    """A later answer takes the place of the one before."""
    retained.keep(Landed(1, "a"))
    retained.keep(Landed(1, "bb"))
    assert (retained.get(1, stream=True).log, len(retained), retained.held_bytes()) == (["bb"], 1, 2)
    assert retained.hits == 1


def test_streamed_and_whole_answers(retained: Retained):
    """They are kept apart, and dropped together."""
    retained.keep(Landed(1, "a"))
    assert retained.get(1, stream=False) is None
    retained.keep(Landed(1, "b", stream=False))
    assert (retained.get(1, stream=True).log, retained.get(1, stream=False).log) == (["a"], ["b"])
    assert (retained.drop(1), retained.drop(1), len(retained)) == (True, False, 0)


def test_nothing_is_not_kept(retained: Retained):
    """An answer without a chunk is none."""
    retained.keep(Landed(1))
    assert len(retained) == 0
