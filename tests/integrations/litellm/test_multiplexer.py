"""The multiplexer under LiteLLM: who says that a call is not to be shared or cached has a request of his own, and
so has who is to be answered by another deployment."""

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


async def test_calls_for_other_tags(enter, ask, deployment, first, second):
    """Where a Router selects by tags, who has others is answered by another deployment."""
    models = [deployment("a", first, tags=["free"]), deployment("b", second, tags=["paid"])]
    entrance = enter("router", model_list=models, enable_tag_filtering=True)
    first.slow_down(first_token_seconds=0.1)
    asked = [ask("async", entrance, metadata={"tags": [tag]}) for tag in ("free", "paid", "free")]
    assert await asyncio.gather(*asked) == ["one two three", "four five", "one two three"]
    assert (first.stats.requests, second.stats.requests) == (1, 1)
