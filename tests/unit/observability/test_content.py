"""Prompts and answers in any framework's form, cut and redacted."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from llmkit_plugins.plugins.observability.content import Content, Heard


def said(written: str | None) -> list[tuple[str, str]]:
    assert written is not None
    return [(message["role"], message["parts"][0]["content"]) for message in json.loads(written)]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ("hi", [("user", "hi")]),
        ([{"role": "system", "content": "s"}], [("system", "s")]),
        ([HumanMessage("q"), AIMessage("a")], [("user", "q"), ("assistant", "a")]),
        ([{"role": "user", "content": ["a ", {"type": "text", "text": "b"}]}], [("user", "a b")]),
        ([{"role": "user", "content": [{"type": "image", "url": "u"}]}], [("user", '{"type": "image", "url": "u"}')]),
        ([{"role": "assistant", "content": None, "tool_calls": []}], [("assistant", "")]),
        (None, [("user", "")]),
    ],
)
def test_prompts(messages, expected):
    """Texts, dicts, LangChain's messages and blocks of content."""
    assert said(Content(100).prompt(messages)) == expected


@pytest.mark.parametrize(
    "raw",
    [
        "hello",
        {"choices": [{"message": {"role": "assistant", "content": "hello"}}]},
        SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content="hello"))]),
        SimpleNamespace(choices=[SimpleNamespace(text="hello", message=None)]),
        ChatResult(generations=[ChatGeneration(message=AIMessage("hello"))]),
        AIMessage("hello"),
    ],
    ids=["text", "dict", "chat", "completion", "langchain result", "langchain message"],
)
def test_answers(raw: Any):
    """OpenAI's form, LiteLLM's, LangChain's."""
    assert said(Content(100).answer(raw)) == [("assistant", "hello")]


OPENAI_CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
LANGCHAIN_CALL = {"id": "c1", "type": "tool_call", "name": "weather", "args": {"city": "Rome"}}
RECORDED_CALL = {"type": "tool_call", "id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'}


@pytest.mark.parametrize(
    "raw",
    [
        {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [OPENAI_CALL]}}]},
        AIMessage("", tool_calls=[LANGCHAIN_CALL]),
        AIMessage([{"type": "tool_use", "id": "c1", "name": "weather", "input": {}}], tool_calls=[LANGCHAIN_CALL]),
    ],
    ids=["openai", "langchain", "langchain, in blocks"],
)
def test_calls_of_tools(raw: Any):
    """An answer that calls a tool says which, with what."""
    assert json.loads(Content(100).answer(raw, "tool_calls") or "") == [
        {"role": "assistant", "parts": [RECORDED_CALL], "finish_reason": "tool_calls"}
    ]


def openai_chunk(index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta}]}


def langchain_chunk(content: Any = "", **calls: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content, tool_call_chunks=[calls] if calls else []))


STREAMS = {
    "text": ["hel", "lo"],
    "openai": [openai_chunk(role="assistant", content=""), openai_chunk(content="hel"), openai_chunk(content="lo"), {}],
    "objects": [SimpleNamespace(choices=[SimpleNamespace(index=0, delta=SimpleNamespace(content="hello"))]), object()],
    "langchain": [langchain_chunk("hel"), langchain_chunk(), langchain_chunk([{"type": "text", "text": "lo"}])],
}


@pytest.mark.parametrize("chunks", STREAMS.values(), ids=STREAMS)
def test_streams(chunks):
    """What their chunks say, put together."""
    heard = Heard()
    for chunk in chunks:
        heard.hear(chunk)
    assert said(Content(100).streamed(heard)) == [("assistant", "hello")]


PARTS = [("c1", "weather", '{"city": '), (None, None, '"Rome"}')]


@pytest.mark.parametrize(
    "chunks",
    [
        [
            openai_chunk(tool_calls=[{"index": 0, "id": id, "function": {"name": name, "arguments": part}}])
            for id, name, part in PARTS
        ],
        [langchain_chunk(index=0, id=id, name=name, args=part) for id, name, part in PARTS],
    ],
    ids=["openai", "langchain"],
)
def test_streamed_calls_of_tools(chunks):
    """Their arguments come in parts."""
    heard = Heard()
    for chunk in chunks:
        heard.hear(chunk)
    assert json.loads(Content(100).streamed(heard) or "")[0]["parts"] == [RECORDED_CALL]


def test_a_stream_of_several_answers():
    """Each choice is an answer of its own."""
    heard = Heard()
    for index, text in ((0, "a"), (1, "x"), (0, "b")):
        heard.hear(openai_chunk(index, content=text))
    assert said(Content(100).streamed(heard)) == [("assistant", "ab"), ("assistant", "x")]


def test_the_size_is_bounded():
    """So many characters of text in all, and what is cut says so; the JSON stays whole."""
    messages = [
        {"role": "user", "content": "12345"},
        {"role": "user", "content": "67890"},
        {"role": "user", "content": "x"},
    ]
    assert said(Content(7).prompt(messages)) == [("user", "12345"), ("user", "67…")]


def test_redaction_comes_before_the_cut():
    """What is redacted is the whole text, so that nothing slips through half a word."""
    content = Content(6, lambda text: text.replace("sk-1234", "***"))
    assert said(content.prompt("a sk-1234 b")) == [("user", "a *** …")]


def test_the_arguments_of_tools_are_redacted_and_cut_too():
    """They count as text."""
    content = Content(15, lambda text: text.replace("Rome", "***"))
    (answer,) = json.loads(content.answer(AIMessage("", tool_calls=[LANGCHAIN_CALL, LANGCHAIN_CALL])) or "")
    assert [part["arguments"] for part in answer["parts"]] == ['{"city": "***"}', "…"]


def test_what_cannot_be_written_is_escaped():
    """Half of an emoji, as truncated prompts have it, is written as JSON does: exporters could not encode it."""
    written = Content(100).prompt("hi \ud83d")
    assert written.encode()
    assert json.loads(written)[0]["parts"][0]["content"] == "hi \ud83d"
