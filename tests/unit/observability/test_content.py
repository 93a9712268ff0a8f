"""Prompts and answers in any framework's form, cut and redacted."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from llmkit_plugins.plugins.observability.content import Content


def said(written: str | None) -> list[tuple[str, str]]:
    assert written is not None
    return [(message["role"], message["parts"][0]["content"]) for message in json.loads(written)]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ("hi", [("user", "hi")]),
        ([{"role": "system", "content": "s"}], [("system", "s")]),
        ([HumanMessage("q"), AIMessage("a")], [("user", "q"), ("assistant", "a")]),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], [("user", '[{"type": "text", "text": "x"}]')]),
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


def test_a_streams_chunks_are_nobodys():
    """There is no whole answer to record."""
    assert Content(100).answer(None) is None


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
