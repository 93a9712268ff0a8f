"""``ChatLLMKit`` where LangChain's users put a model: agents, graphs that stream messages, usage callbacks."""

from __future__ import annotations

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessageChunk
from llmkit_langchain import ChatLLMKit, LLMKitCallbackHandler
from pydantic import BaseModel

from llmkit_plugins.testing.fake_provider import Fault


class Answer(BaseModel):
    """What the agent found."""

    city: str


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.fixture
def agent(model):
    """An agent with one tool, which the provider calls once."""
    return create_agent(model, [weather])


QUESTION = {"messages": [("user", "What is the weather?")]}


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_agent_with_a_tool(mode, agent, recorder):
    """An agent calls its tool and answers: two calls of the model, each with its user."""
    config = {"metadata": {"user": "u1"}}
    state = agent.invoke(QUESTION, config) if mode == "invoke" else await agent.ainvoke(QUESTION, config)
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert state["messages"][-1].text == "one two three"
    assert recorder.counts["request ok"] == recorder.counts["attempt ok"] == recorder.counts["request"] == 2
    assert {call.user for call in recorder.calls} == {"u1"}


async def test_agent_survives_a_provider_that_dies_between_two_steps(agent, first, recorder):
    """The tool is called by the first provider, the answer is the second's."""
    first.fail_with(Fault("overloaded", on=[2]))
    first.reset()
    state = await agent.ainvoke(QUESTION)
    assert state["messages"][-1].text == "four five"
    assert [attempt.target.name for attempt in recorder.attempts] == ["first", "first", "second"]


async def test_agent_streams_each_message_once(agent):
    """A graph that streams messages has every text once, though the model is asked for a whole answer."""
    said = [
        message.text
        async for message, _ in agent.astream(QUESTION, stream_mode="messages")
        if isinstance(message, AIMessageChunk)
    ]
    assert "".join(said) == "one two three"
    assert len([text for text in said if text]) == 3


@pytest.mark.parametrize("mode", ["invoke", "astream", "astream_events"])
async def test_usage_is_counted_once(mode, model, ask, recorder):
    """LangChain's own usage callback counts what the provider counted, also after a failover."""
    usage = UsageMetadataCallbackHandler()
    await ask(mode, model, {"callbacks": [usage]})
    assert {name: counted["total_tokens"] for name, counted in usage.usage_metadata.items()} == {"m-1": 4}
    assert [attempt.usage.total_tokens for attempt in recorder.attempts] == [4]


@pytest.mark.parametrize(("names", "form"), [(("m-1", "m-2"), "tools"), (("gpt-4o", "gpt-4o-mini"), "response_format")])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")  # ChatOpenAI's own
async def test_structured_output_of_an_agent(names, form, fails, kit, first, second, chat_openai):
    """An agent uses the providers' own form where the profiles of all models have it, and else a tool call."""
    providers = (first, second)
    models = {name: chat_openai(provider, name) for name, provider in zip(names, providers, strict=True)}
    first.fail_with(*[Fault("overloaded")] if fails else [])
    agent = create_agent(ChatLLMKit(models=models, kit=kit), [], response_format=Answer)
    state = await agent.ainvoke(QUESTION)
    assert isinstance(state["structured_response"], Answer)
    assert form in providers[fails].requests[-1].body


async def test_handler_on_an_agent_over_the_model_of_its_kit(agent, kit, recorder):
    """A handler on the agent counts nothing that the model's kit has counted."""
    await agent.ainvoke(QUESTION, {"callbacks": [LLMKitCallbackHandler(kit)]})
    assert recorder.counts["request"] == recorder.counts["attempt"] == 2


async def test_handler_on_an_agent(first, chat_openai, kit, recorder):
    """A handler on an agent over a plain model counts each call of the model."""
    agent = create_agent(chat_openai(first, "m-1"), [weather])
    await agent.ainvoke(QUESTION, {"callbacks": [LLMKitCallbackHandler(kit)], "metadata": {"user": "u1"}})
    assert recorder.counts["request ok"] == recorder.counts["request"] == 2
    assert {call.user for call in recorder.calls} == {"u1"}
