"""What a chunk weighs: an estimate, never far off, never slow."""

from __future__ import annotations

from sys import getsizeof
from typing import Any

import pytest
from pydantic import BaseModel

from llmkit_plugins import Call
from llmkit_plugins.clock import SYSTEM_CLOCK
from llmkit_plugins.engine.flights import Flight
from llmkit_plugins.engine.sharing import Flights
from llmkit_plugins.engine.size import size_of


class Delta(BaseModel):
    content: str


class Chunk(BaseModel):
    delta: Delta


class Slotted:
    __slots__ = ("x",)


@pytest.mark.parametrize(
    ("chunk", "right"),
    [
        ("x" * 1000, 1049),
        (b"x" * 1000, 1033),
        ({"choices": [{"text": "x" * 1000}]}, 1600),
        ([float(n) + 0.5 for n in range(1536)], 1536 * 32),
        ({n: "x" * 100 + str(n) for n in range(1000)}, 1000 * (152 + 28) + 36_000),
        (Chunk(delta=Delta(content="x" * 1000)), 1600),
        (Slotted(), getsizeof(Slotted())),
        (Slotted, getsizeof(Slotted)),
    ],
    ids=["text", "bytes", "dict", "embedding", "many", "object", "slots", "class"],
)
def test_an_estimate(chunk: Any, right: int) -> None:
    """It is right within a quarter where the parts are alike."""
    assert right * 0.75 <= size_of(chunk) <= right * 1.25


def test_half_of_the_process() -> None:
    """A chunk that holds on to everything, itself included, is not followed for ever."""
    everything: dict[str, Any] = {}
    here = everything
    for _ in range(100_000):
        here["next"] = here = {"all": everything}
    assert size_of(everything) < 100_000


def test_chunks_are_weighed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that came since somebody asked are, and of many one in sixteen."""
    weighed: list[str] = []
    monkeypatch.setattr("llmkit_plugins.engine.flights.size_of", lambda chunk: weighed.append(chunk) or 10)
    flight: Flight[Any] = Flight(Flights(SYSTEM_CLOCK), ("key",), Call("hi"))
    assert (flight.held_bytes(), weighed) == (0, [])
    flight.log += ["a"]
    assert (flight.held_bytes(), flight.held_bytes(), weighed) == (10, 10, ["a"])
    flight.log += "b" + "c" * 15 + "d"
    assert (flight.held_bytes(), weighed) == (180, ["a", "b", "d"])
