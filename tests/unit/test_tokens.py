"""How long a prompt is, whoever asks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llmkit_plugins import Call
from llmkit_plugins.tokens import MEASURED, measured_prompt, prompt_texts


def test_a_prompt_is_measured_once() -> None:
    """The tools count too, and who asks again gets the same without anybody looking."""
    call = Call([{"content": "hello"}], params={"tools": [{"name": "now"}]})
    assert measured_prompt(call) == 8
    call.messages = "something else"
    assert measured_prompt(call) == call.state[MEASURED] == 8


@pytest.mark.parametrize(
    ("messages", "texts"),
    [
        ("hello", ["hello"]),
        (None, []),
        ([{"role": "user", "content": "hello"}], ["user", "hello"]),
        ([{"content": [{"type": "text", "text": "hello"}]}], ["text", "hello"]),
        ((SimpleNamespace(content="a"), SimpleNamespace(content=["b", {"text": "c"}])), ["a", "b", "c"]),
        ([SimpleNamespace(text="no content"), 7], []),
    ],
)
def test_the_texts_of_a_prompt(messages, texts) -> None:
    """In the forms frameworks give them, in their order."""
    assert list(prompt_texts(messages)) == texts


def test_a_prompt_that_contains_itself_has_an_end() -> None:
    """Depth is bounded."""
    messages: list[object] = ["x"]
    messages.append(messages)
    assert list(prompt_texts(messages)) == ["x"] * 8
