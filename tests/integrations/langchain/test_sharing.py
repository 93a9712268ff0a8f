"""Identical calls at the same time, where a plugin shares them: one request upstream, a whole run for each caller."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from llmkit_langchain import ChatLLMKit

from llmkit_plugins import LLMKit, Share, UpstreamLost
from llmkit_plugins.testing.fake_provider import Fault


class Run(BaseCallbackHandler):
    """Everything a caller's own callbacks hear."""

    def __init__(self):
        self.events = Counter()
        self.tokens = []
        self.usage = self.run_id = None

    def on_chat_model_start(self, serialized, messages, *, run_id, **_):
        self.events["start"] += 1
        self.run_id = run_id

    def on_llm_new_token(self, token, **_):
        self.tokens.append(token)

    def on_llm_end(self, response, **_):
        self.events["end"] += 1
        self.usage = response.generations[0][0].message.usage_metadata

    def on_llm_error(self, error, **_):
        self.events["error"] += 1


@pytest.fixture
def sharing(kit, plugin, first, second, chat_openai):
    """A model whose identical calls are shared."""
    kit.register(plugin(pre_request=lambda call: Share("everybody")))
    return ChatLLMKit(models={"a": chat_openai(first, "m-1"), "b": chat_openai(second, "m-2")}, kit=kit)


async def test_fifty_streams_are_one_request(sharing, chain_of, together, first, recorder):
    """Fifty runs of a chain share one upstream; each has its own callbacks, its own ids and the whole usage."""
    runs = [Run() for _ in range(50)]
    chain = chain_of(sharing)

    async def listen(run):
        return [text async for text in chain.astream({"topic": "x"}, {"callbacks": [run]})]

    answers = await together(map(listen, runs))
    assert {"".join(answer) for answer in answers} == {"one two three"}
    assert first.stats.requests == 1
    assert {"".join(run.tokens) for run in runs} == {"one two three"}
    assert all(run.events == {"start": 1, "end": 1} for run in runs)
    assert {run.usage["total_tokens"] for run in runs} == {4}
    assert len({run.run_id for run in runs}) == 50
    assert recorder.counts["request ok"] == recorder.counts["attempt ok"] == recorder.counts["attempt"] == 1
    assert recorder.counts["request shared"] == 49


async def test_each_message_is_its_own(sharing, together, first):
    """No caller sees another's ids or what another did to the message; each is told that it was shared."""

    async def listen():
        message = None
        async for chunk in sharing.astream("hi"):
            chunk.response_metadata["mine"] = True
            message = chunk if message is None else message + chunk
        return message

    messages = await together([listen() for _ in range(3)])
    assert len({message.id for message in messages}) == 3
    assert Counter(message.response_metadata["llmkit"]["shared"] for message in messages) == {False: 1, True: 2}
    assert {message.response_metadata["llmkit"]["target"] for message in messages} == {"a"}


async def test_whole_answers_are_shared(sharing, together, first):
    """``ainvoke`` shares too: one request, a message for each."""
    messages = await together([sharing.ainvoke("hi") for _ in range(3)])
    assert {message.text for message in messages} == {"one two three"}
    assert len({id(message) for message in messages}) == len({message.id for message in messages}) == 3
    assert Counter(message.response_metadata["llmkit"]["shared"] for message in messages) == {False: 1, True: 2}
    messages[0].tool_calls.append("mine")
    assert not messages[1].tool_calls
    assert first.stats.requests == 1


async def test_failover_is_shared(sharing, together, first, second):
    """Where the first provider fails, all are served by one request to the second."""
    first.fail_with(Fault("overloaded"))
    messages = await together([sharing.ainvoke("hi") for _ in range(3)])
    assert {message.text for message in messages} == {"four five"}
    assert {message.response_metadata["llmkit"]["attempts"] for message in messages} == {2}
    assert (first.stats.requests, second.stats.requests) == (1, 1)


async def test_whoever_leaves_takes_nobody_along(sharing, seated, held, first, recorder):
    """The caller who started the upstream is cancelled: the others get their answer."""
    leader = asyncio.ensure_future(sharing.ainvoke("hi"))
    await seated(1)
    followers = [asyncio.ensure_future(sharing.ainvoke("hi")) for _ in range(2)]
    await seated(3)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    held.set()
    assert {message.text for message in await asyncio.gather(*followers)} == {"one two three"}
    assert recorder.counts["request cancelled"] == 1
    assert recorder.counts["request shared"] == 2


async def test_lost_upstream_may_be_asked_for_again(sharing, kit, seated, held, first):
    """The kit closes under its callers: they get an error that LangChain knows to be retryable."""
    task = asyncio.ensure_future(sharing.ainvoke("hi"))
    await seated(1)
    kit.close()
    with pytest.raises(UpstreamLost) as caught:
        await task
    assert caught.value.is_retryable


def test_threads_share_too(sharing, chain_of, seats, eventually, held, first, recorder):
    """Fifty threads that stream the same chain are one request; each run has its own callbacks and the whole usage."""
    runs = [Run() for _ in range(50)]
    chain = chain_of(sharing)

    def listen(run):
        return "".join(chain.stream({"topic": "x"}, {"callbacks": [run]}))

    with ThreadPoolExecutor(50) as pool:
        answers = [pool.submit(listen, run) for run in runs]
        eventually(lambda: seats() == 50)
        held.set()
        assert {answer.result() for answer in answers} == {"one two three"}
    assert first.stats.requests == 1
    assert {"".join(run.tokens) for run in runs} == {"one two three"}
    assert all(run.events == {"start": 1, "end": 1} for run in runs)
    assert {run.usage["total_tokens"] for run in runs} == {4}
    assert len({run.run_id for run in runs}) == 50
    assert recorder.counts["request ok"] == recorder.counts["attempt"] == 1
    assert recorder.counts["request shared"] == 49


def test_unshared_calls_are_not_marked(model):
    """Who got an answer of their own is told so."""
    assert model.invoke("hi").response_metadata["llmkit"] == {"target": "first", "attempts": 1, "shared": False}


def test_kit_is_the_border(first, chat_openai, plugin):
    """Models of two kits never share."""
    share = lambda call: Share("everybody")  # noqa: E731
    models = [
        ChatLLMKit(models={"a": chat_openai(first, "m")}, kit=LLMKit([plugin(pre_request=share)])) for _ in range(2)
    ]
    for one in models:
        one.invoke("hi")
    assert first.stats.requests == 2
