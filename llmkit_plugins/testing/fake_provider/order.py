"""A parsed request, and how tokens are counted: a token is a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llmkit_plugins.testing.fake_provider.api_error import ApiError

_TOKEN = re.compile(r"\s*\S+(?:\s+$)?")


@lru_cache(maxsize=256)
def tokens_of(text: str) -> tuple[str, ...]:
    """The tokens of *text*: its words, each with the space before it. Joined, they are the text again."""
    return tuple(_TOKEN.findall(text))


def count_tokens(content: Any) -> int:
    """The tokens of a prompt: all its words. Takes a text, token ids, a message, parts of one, or lists of these."""
    if isinstance(content, str):
        return len(content.split())
    if isinstance(content, Mapping):
        return count_tokens(content.get("content", content.get("text")))
    if isinstance(content, int):
        return 1
    return sum(map(count_tokens, content)) if isinstance(content, Iterable) else 0


@dataclass(frozen=True, slots=True)
class Order:
    """A request: its JSON, and what identifies the answer."""

    body: Mapping[str, Any]
    id: str
    """Without the prefix of its endpoint."""
    created: int
    """Unix seconds."""

    @property
    def model(self) -> str:
        """The requested model. Raises ``ApiError`` if there is none."""
        model = self.body.get("model")
        if not isinstance(model, str) or not model:
            raise ApiError(400, "you must provide a model parameter")
        return model

    @property
    def stream(self) -> bool:
        """Whether the answer is to be streamed."""
        return bool(self.body.get("stream"))

    @property
    def include_usage(self) -> bool:
        """Whether a stream should end with the usage."""
        return bool((self.body.get("stream_options") or {}).get("include_usage"))

    def number(self, *names: str) -> int | None:
        """The first of the parameters *names* that is given; None if none is. Raises ``ApiError`` unless it is a whole
        number, at least 1."""
        for name in names:
            value = self.body.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ApiError(400, f"Invalid value for '{name}': expected an integer >= 1.", param=name)
            return value
        return None
