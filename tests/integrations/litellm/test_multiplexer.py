"""The multiplexer under LiteLLM: who says that a call is not to be shared or cached has a request of his own."""

from __future__ import annotations

import asyncio

import pytest

from llmkit_plugins.plugins.multiplexer import MultiplexerPlugin


@pytest.fixture
def kit(kit):
    """A kit with the multiplexer."""
    kit.register(MultiplexerPlugin())
    return kit


@pytest.mark.parametrize("mode", ["async", "async stream"])
@pytest.mark.parametrize(
    ("marks", "requests"),
    [
        ({}, 1),
        ({"metadata": {"trace": "any"}}, 1),
        ({"metadata": {"share": False}}, 3),
        ({"metadata": {"no-cache": True}}, 3),
        ({"cache": {"no-cache": True}}, 3),
    ],
    ids=["unmarked", "other metadata", "not shared", "not cached", "LiteLLM's own mark"],
)
async def test_marked_calls(entrance, mode, ask, first, marks, requests):
    """Two that are marked and one that is not are three requests; unmarked they are one."""
    first.slow_down(first_token_seconds=0.1)
    answers = await asyncio.gather(*[ask(mode, entrance, **given) for given in ({}, marks, marks)])
    assert answers == ["one two three"] * 3
    assert first.stats.requests == requests
