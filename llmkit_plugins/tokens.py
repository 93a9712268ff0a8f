"""How long a prompt is and how long an answer may be, in any framework's format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmkit_plugins.call import Call

MEDIA_CHARS = 3000
"""What an image or audio clip counts for: about 750 tokens."""

MEASURED = "prompt_chars"
"""The key in ``call.state`` of the length of its prompt, once measured."""

_MAX_DEPTH = 8
_ENDLESS = 1e12
_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


def prompt_chars(messages: Any, depth: int = _MAX_DEPTH) -> int:
    """The characters of *messages* in any framework's format: text, mappings, sequences, objects with ``content``.

    Images and audio clips count as :data:`MEDIA_CHARS` each, regardless of their encoded length.
    """
    if isinstance(messages, str):
        return MEDIA_CHARS if messages.startswith("data:") else len(messages)
    if depth == 0 or messages is None:
        return 0
    parts: Iterable[Any]
    if isinstance(messages, (list, tuple)):
        parts = messages
    elif type(messages) is dict or isinstance(messages, Mapping):
        if "data" in messages:
            return MEDIA_CHARS
        parts = messages.values()
    else:
        parts = (getattr(messages, "content", None),)
    chars = 0
    for part in parts:
        if type(part) is str and not part.startswith("data:"):  # the common case: saves a call
            chars += len(part)
        else:
            chars += prompt_chars(part, depth - 1)
    return chars


def measured_prompt(call: Call) -> int:
    """The characters of the prompt of *call*, tools included; measured once and cached."""
    chars: int | None = call.state.get(MEASURED)
    if chars is None:
        chars = prompt_chars(call.messages)
        if tools := call.params.get("tools"):
            chars += prompt_chars(tools)
        call.state[MEASURED] = chars
    return chars


def prompt_texts(messages: Any, depth: int = _MAX_DEPTH) -> Iterator[str]:
    """The texts in *messages*, in order, including roles and encoded media."""
    if isinstance(messages, str):
        yield messages
    elif depth and messages is not None:
        parts: Iterable[Any] = [getattr(messages, "content", None)]
        if isinstance(messages, Mapping | list | tuple):
            parts = messages.values() if isinstance(messages, Mapping) else messages
        for part in parts:
            yield from prompt_texts(part, depth - 1)


def max_output_tokens(params: Mapping[str, Any]) -> float | None:
    """The bound on the answer that *params* set, under any of its usual names; None unless it is a number >= 0."""
    for name in _BOUNDS:
        bound = params.get(name)
        if bound is not None:
            return float(min(bound, _ENDLESS)) if isinstance(bound, int | float) and bound >= 0 else None
    return None
