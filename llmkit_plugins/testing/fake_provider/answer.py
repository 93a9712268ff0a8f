"""The answer to a request, and how it is encoded: whole or in chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from llmkit_plugins.call import Usage
from llmkit_plugins.testing.fake_provider.order import Order

Json = dict[str, Any]
Say = Callable[[Mapping[str, Any]], str]
"""Maps a request's body to the provider's reply."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the choices in an answer."""

    tokens: Sequence[str]
    finish_reason: str = "stop"
    tool: str | None = None
    """The function it calls, with the tokens as arguments; None: the tokens are text."""

    @property
    def text(self) -> str:
        """The tokens joined."""
        return "".join(self.tokens)

    def cut(self, most: int | None) -> Choice:
        """The same, with at most *most* tokens."""
        return self if most is None or len(self.tokens) <= most else Choice(self.tokens[:most], "length", self.tool)


class Chunk(NamedTuple):
    """One SSE event of a stream."""

    position: int
    """The token it comes with, from 0."""
    tokens: int
    """How many tokens it carries."""
    data: Json


class Answer(ABC):
    """The answer to *order*."""

    choices: Sequence[Choice] = ()
    """The texts; empty if it is not text and cannot be streamed."""

    def __init__(self, order: Order, usage: Usage) -> None:
        self.order, self.usage = order, usage

    @property
    def length(self) -> int:
        """The tokens of the longest choice: choices are generated in parallel."""
        return max((len(choice.tokens) for choice in self.choices), default=0)

    @abstractmethod
    def whole(self) -> Json:
        """All of it in one object."""


class TextAnswer(Answer):
    """An answer in tokens. Its chunks are built as they are read."""

    prefix: ClassVar[str]
    """The prefix of its id."""
    object: ClassVar[str]
    """OpenAI's name for a whole answer …"""
    chunk_object: ClassVar[str]
    """… and for a chunk."""

    def __init__(self, order: Order, choices: Sequence[Choice], prompt_tokens: int) -> None:
        super().__init__(order, Usage(prompt_tokens, sum(len(choice.tokens) for choice in choices)))
        self.choices = choices

    closing: ClassVar[Json]
    """What follows the last token."""

    @abstractmethod
    def spoken(self, choice: Choice, /) -> Json:
        """*choice* whole."""

    @abstractmethod
    def opening(self, choice: Choice, /) -> Iterable[Json]:
        """What precedes its first token."""

    @abstractmethod
    def piece(self, choice: Choice, token: str, /) -> Json:
        """One token of it."""

    @property
    def usage_before_text(self) -> Usage:
        """The usage before its first token: the prompt and the reasoning."""
        usage = self.usage
        return Usage(usage.input_tokens, usage.reasoning_tokens, usage.cached_tokens, usage.reasoning_tokens)

    def whole(self) -> Json:
        """All of it in one object."""
        choices = [
            {"index": index, **self.spoken(choice), "logprobs": None, "finish_reason": choice.finish_reason}
            for index, choice in enumerate(self.choices)
        ]
        return {**self._head(self.object), "choices": choices, "usage": usage_object(self.usage)}

    def chunks(self) -> Iterator[Chunk]:
        """All of it in chunks, alternating between the choices."""
        head = self._head(self.chunk_object)
        if self.order.include_usage:
            head["usage"] = None
        for position, tokens, index, piece, reason in self._pieces():
            choice = {"index": index, **piece, "logprobs": None, "finish_reason": reason}
            yield Chunk(position, tokens, {**head, "choices": [choice]})
        if self.order.include_usage:
            yield Chunk(self.length, 0, {**head, "choices": [], "usage": usage_object(self.usage)})

    def _pieces(self) -> Iterator[tuple[int, int, int, Json, str | None]]:
        for index, choice in enumerate(self.choices):
            for opening in self.opening(choice):
                yield 0, 0, index, opening, None
        for position in range(self.length):
            for index, choice in enumerate(self.choices):
                if position < len(choice.tokens):
                    yield position, 1, index, self.piece(choice, choice.tokens[position]), None
        for index, choice in enumerate(self.choices):
            yield self.length, 0, index, self.closing, choice.finish_reason

    def _head(self, kind: str) -> Json:
        return {
            "id": f"{self.prefix}-{self.order.id}",
            "object": kind,
            "created": self.order.created,
            "model": self.order.model,
            "system_fingerprint": "fp_fake",
        }


def usage_object(usage: Usage) -> Json:
    """*usage* in OpenAI's format."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
