"""The LiteLLM functions that go through a kit, and the requests made to them."""

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
    """Its name in the GenAI conventions, if they have one."""
    function: str
    """LiteLLM's function, in the SDK and on a Router; the async one is prefixed with ``a``."""
    prompt: str
    """The argument that holds the prompt."""


CHAT = Operation("chat", "completion", "messages")
TEXT = Operation("text_completion", "text_completion", "prompt")
EMBEDDINGS = Operation("embeddings", "embedding", "input")
RESPONSES = Operation("responses", "responses", "input")

OPERATIONS = (CHAT, TEXT, EMBEDDINGS, RESPONSES)
"""Everything that goes through a kit."""


class Request:
    """One request as LiteLLM received it: the arguments by name, and the call they describe."""

    __slots__ = ("arguments", "awaits", "began", "call", "operation")

    def __init__(self, operation: Operation, arguments: Mapping[str, Any], *, awaits: bool) -> None:
        self.operation, self.arguments, self.awaits = operation, arguments, awaits
        self.began = datetime.now()
        self.call = call_of(arguments, operation.name, operation.prompt)

    @property
    def function(self) -> str:
        """The name of the LiteLLM function that received it."""
        return f"a{self.operation.function}" if self.awaits else self.operation.function
