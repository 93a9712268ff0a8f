"""The multiplexer under LangChain: what is shared, and what is not."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.messages import HumanMessage
from llmkit_langchain import ChatLLMKit

from llmkit_plugins.plugins.multiplexer import MultiplexerPlugin


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("metadata", "requests"),
    [({"trace": "any"}, 1), ({"share": False}, 3), ({"no-cache": True}, 3), ({"cache": {"no-cache": True}}, 3)],
    ids=["other metadata", "not shared", "not cached", "not cached, as in LiteLLM"],
)
async def test_marked_calls(kit, first, chat_openai, streamed, metadata, requests):
    """Two that are marked and one that is not are three requests; unmarked they are one."""
    kit.register(MultiplexerPlugin())
    model = ChatLLMKit(models={"a": chat_openai(first, "m-1")}, kit=kit)
    first.slow_down(first_token_seconds=0.1)

    async def ask(**config):
        if streamed:
            return "".join([chunk.text async for chunk in model.astream("hi", config)])
        return (await model.ainvoke("hi", config)).text

    answers = await asyncio.gather(ask(), ask(metadata=metadata), ask(metadata=metadata))
    assert len(set(answers)) == 1
    assert first.stats.requests == requests


@pytest.mark.parametrize(
    ("settings", "requests"),
    [({"temperature": 0}, 1), ({"temperature": 1, "seed": 7}, 1), ({"temperature": 1}, 3), ({}, 3)],
    ids=str,
)
async def test_what_a_model_is_set_to(kit, first, second, chat_openai, settings, requests):
    """A temperature of 0 or a seed counts where all models are set to it, as where a call says it."""
    kit.register(MultiplexerPlugin(share_sampled=False))
    model = ChatLLMKit(models={"a": chat_openai(first, "m-1", **settings)}, kit=kit)
    first.slow_down(first_token_seconds=0.1)
    await asyncio.gather(*[model.ainvoke("hi") for _ in range(3)])
    assert first.stats.requests == requests
    assert {name: first.requests[-1].body.get(name) for name in settings} == settings
    mixed = {"a": chat_openai(second, "m-1", **settings), "b": chat_openai(second, "m-2", temperature=0.5, seed=9)}
    model = ChatLLMKit(models=mixed, kit=kit)
    second.slow_down(first_token_seconds=0.1)
    await asyncio.gather(*[model.ainvoke("hi") for _ in range(2)])
    assert second.stats.requests == 2


async def test_a_model_that_gives_several_answers(kit, first, chat_openai):
    """It shares none of them, where that is set on the model as where it is asked for in a call."""
    kit.register(MultiplexerPlugin())
    model = ChatLLMKit(models={"a": chat_openai(first, "m-1", n=2)}, kit=kit)
    first.slow_down(first_token_seconds=0.1)
    await asyncio.gather(*[model.ainvoke("hi") for _ in range(2)])
    assert first.stats.requests == 2


async def test_what_follows_a_shared_answer(model, kit, first, held, together):
    """Who goes on from a shared answer, whoever it was made for, goes on as one: the steps of equal agents are shared,
    and not only the first."""
    kit.register(MultiplexerPlugin())
    answers = await together([model.ainvoke("hi") for _ in range(3)])
    held.clear()
    await together([model.ainvoke([HumanMessage("hi"), answer, HumanMessage("and?")]) for answer in answers])
    assert first.stats.requests == 2
