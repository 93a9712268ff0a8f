"""The functions of LiteLLM that go through a kit, and what comes to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmkit_litellm.calls import call_of


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing LiteLLM can be asked for."""

    name: str
    """What the GenAI conventions call it, where they have a word."""
    function: str
    """LiteLLM's function, of the SDK and of a Router; the one that is awaited has an ``a`` before its name."""
    prompt: str
    """The argument that holds what is asked."""


CHAT = Operation("chat", "completion", "messages")
TEXT = Operation("text_completion", "text_completion", "prompt")
EMBEDDINGS = Operation("embeddings", "embedding", "input")
RESPONSES = Operation("responses", "responses", "input")

OPERATIONS = (CHAT, TEXT, EMBEDDINGS, RESPONSES)
"""All that goes through a kit."""


class Request:
    """One request as it came to LiteLLM: the arguments by name, and the call that they describe."""

    __slots__ = ("arguments", "awaits", "began", "call", "operation")

    def __init__(self, operation: Operation, arguments: Mapping[str, Any], *, awaits: bool) -> None:
        self.operation, self.arguments, self.awaits = operation, arguments, awaits
        self.began = datetime.now()
        self.call = call_of(arguments, operation.name, operation.prompt)

    @property
    def function(self) -> str:
        """The name of LiteLLM's function it came to."""
        return f"a{self.operation.function}" if self.awaits else self.operation.function
