"""What is read from LangChain's answers and chunks, piece by piece."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation, GenerationChunk
from llmkit_langchain import ChatLLMKit, LangChainBackend
from llmkit_langchain.complaints import complain
from llmkit_langchain.reading import learn
from pydantic import PrivateAttr

from llmkit_plugins import Attempt, Target, Usage

TOOL_CALL = {"name": "weather", "args": "", "id": "1", "index": 0}
USAGE = {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}


def chunk(content: Any = "", info: Any = None, **told: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content, **told), generation_info=info)


@pytest.mark.parametrize(
    ("piece", "says"),
    [
        (chunk(""), False),
        (chunk("", response_metadata={"model_provider": "openai"}), False),
        (chunk("", usage_metadata=USAGE), False),
        (chunk("", chunk_position="last"), False),
        (chunk([]), False),
        (chunk([{"type": "text", "text": "", "index": 0, "id": "1"}]), False),
        (chunk("", additional_kwargs={"reasoning_content": ""}), False),
        (chunk("one"), True),
        (chunk([{"type": "text", "text": "one", "index": 0}]), True),
        (chunk(["one"]), True),
        (chunk([{"type": "reasoning", "reasoning": "hm", "index": 0}]), True),
        (chunk("", additional_kwargs={"reasoning_content": "hm"}), True),
        (chunk("", tool_call_chunks=[TOOL_CALL]), True),
        (chunk("", {"finish_reason": "stop"}), True),
        (chunk("", response_metadata={"stop_reason": "end_turn"}), True),
        (GenerationChunk(text=""), False),
        (GenerationChunk(text="one"), True),
    ],
)
def test_what_says_something(piece, says):
    """Text, reasoning, a tool call and the end say something; a role, a frame and the bill do not."""
    assert LangChainBackend().says(piece) is says


def learned(*generations: Generation, llm_output: Any = None) -> Attempt:
    attempt = Attempt(1, Target("a", "p", "m"), started=0.0)
    for generation in generations:
        learn(attempt, generation, llm_output)
    return attempt


def test_usage_of_chunks_adds_up():
    """Each chunk tells a part of the tokens, with what was cached and what was spent on reasoning."""
    told = {
        **USAGE,
        "input_token_details": {"cache_read": 4, "cache_creation": 1},
        "output_token_details": {"reasoning": 2},
    }
    attempt = learned(chunk("x", usage_metadata=told), chunk("", usage_metadata={**USAGE, "input_tokens": 0}))
    assert attempt.usage == Usage(5, 6, cached_tokens=4, reasoning_tokens=2)


@pytest.mark.parametrize("name", ["finish_reason", "stop_reason", "stopReason", "done_reason"])
def test_end_by_every_name(name):
    """Providers have several names for why they stopped; the model and the headers are told beside it."""
    info = {"headers": {"X-Request-Id": 7}, "model": "m-1"}
    attempt = learned(chunk("x", response_metadata={name: "stop"}), chunk("", info))
    assert (attempt.finish_reason, attempt.model, attempt.headers) == ("stop", "m-1", {"x-request-id": "7"})


def test_text_models_tell_their_tokens_apart_from_the_text():
    """A model that completes text tells its tokens beside the answer, if at all."""
    told = {"token_usage": {"prompt_tokens": 5, "completion_tokens": None}, "model_name": "m-1"}
    attempt = learned(Generation(text="x", generation_info={"finish_reason": "length"}), llm_output=told)
    assert (attempt.usage, attempt.model, attempt.finish_reason) == (Usage(5, 0), "m-1", "length")
    assert learned(Generation(text="x")).usage is None


@pytest.mark.parametrize(
    "told", [{"headers": "none"}, {"finish_reason": None}, {"headers": None, "model_name": None}, {"token_usage": "?"}]
)
def test_nonsense_is_passed_over(told):
    """What a provider tells in no form that anybody knows does no harm."""
    attempt = learned(chunk("x", told, response_metadata=told), llm_output=told)
    assert (attempt.headers, attempt.finish_reason, attempt.model, attempt.usage) == (None, None, None, None)


@pytest.mark.parametrize("usage", [7, [1], {"input_tokens": "5"}, {"input_token_details": {"cache_read": "x"}}])
def test_nonsense_is_told_once(usage, caplog):
    """Where what it tells cannot be read at all the answer is good all the same; the log says so, once."""
    complain.cache_clear()
    answer = ChatGeneration(message=AIMessage("x"))
    answer.message.usage_metadata = usage
    assert learned(answer).usage is learned(answer).usage is None
    assert [record.message for record in caplog.records] == [
        "a model tells of its answer in a form that cannot be read: plugins do not hear of it"
    ]


@pytest.mark.parametrize(
    "piece",
    [
        chunk("one", response_metadata={"a": 1}),
        chunk([{"type": "text", "text": "one"}]),
        chunk("", tool_call_chunks=[TOOL_CALL]),
        chunk("", additional_kwargs={"a": {"b": 1}}),
        chunk("", usage_metadata=USAGE),
        ChatGeneration(message=AIMessage("one", response_metadata={"a": {"b": 1}})),
    ],
    ids=["text", "blocks", "tool call", "more", "usage", "whole"],
)
def test_copies_are_ones_own(piece):
    """Whatever LangChain or a caller writes onto a copy is not on the original, nor on another copy."""
    backend = LangChainBackend()
    before = piece.model_copy(deep=True)
    one, other = backend.copy(piece), backend.copy(piece)
    for part in vars(one.message).values():
        if isinstance(part, dict):
            part["mine"] = True
        elif isinstance(part, list):
            for block in part:
                block["mine"] = True
            part.append({"mine": True})
    one.message.id = "mine"
    assert piece == other == before


def test_whole_results_are_copied_too():
    """A result is copied with its generations; what the provider told beside them is kept."""
    result = ChatResult(generations=[ChatGeneration(message=AIMessage("one"))], llm_output={"a": 1})
    own = LangChainBackend().copy(result)
    own.generations[0].message.id = "mine"
    assert (result.generations[0].message.id, own.llm_output) == (None, {"a": 1})


class Kept(BaseChatModel):
    """Keeps hold of the streams it opened, so that nobody closes them by forgetting them."""

    _opened: list[Any] = PrivateAttr(default_factory=list)
    _closed: list[str] = PrivateAttr(default_factory=list)

    @property
    def _llm_type(self):
        return "kept"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        raise NotImplementedError

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        def chunks():
            try:
                yield chunk("one")
                yield chunk("two")
            finally:
                self._closed.append("sync")

        self._opened.append(chunks())
        return self._opened[-1]

    def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        async def chunks():
            try:
                yield chunk("one")
                yield chunk("two")
            finally:
                self._closed.append("async")

        self._opened.append(chunks())
        return self._opened[-1]


async def test_abandoned_streams_are_closed_at_once(kit):
    """A stream that is closed closes the model's, and with it the connection, before it returns."""
    kept = Kept()
    model = ChatLLMKit(models={"a": kept}, kit=kit)
    chunks = model._stream([HumanMessage("hi")])
    next(chunks)
    chunks.close()
    achunks = model._astream([HumanMessage("hi")])
    await anext(achunks)
    await achunks.aclose()
    assert kept._closed == ["sync", "async"]
