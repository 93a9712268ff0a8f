"""``/v1/completions``: text after text, the older endpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from llmkit_plugins.testing.fake_provider.answer import Choice, Json, Say, TextAnswer
from llmkit_plugins.testing.fake_provider.api_error import ApiError
from llmkit_plugins.testing.fake_provider.order import Order, count_tokens, tokens_of


class CompletionAnswer(TextAnswer):
    """The completions of prompts."""

    prefix = "cmpl"
    object = "text_completion"
    chunk_object = "text_completion"
    closing: ClassVar[Json] = {"text": ""}

    def spoken(self, choice: Choice, /) -> Json:
        """*choice* whole."""
        return {"text": choice.text}

    def opening(self, _choice: Choice, /) -> Iterable[Json]:
        """Nothing: the first chunk has the first token."""
        return ()

    def piece(self, _choice: Choice, token: str, /) -> Json:
        """One token of it."""
        return {"text": token}


def answer_completion(order: Order, say: Say) -> CompletionAnswer:
    """Continue one prompt or several, each *n* times. Raises ``ApiError`` if the request is not valid."""
    prompt = order.body.get("prompt")
    if not isinstance(prompt, str | list) or not prompt:
        raise ApiError(400, "you must provide a prompt", param="prompt")
    several = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    count = several * (order.number("n") or 1)
    most = order.number("max_tokens")
    choices = [Choice(tokens_of(say(order.body))).cut(most) for _ in range(count)]
    return CompletionAnswer(order, choices, count_tokens(prompt))
