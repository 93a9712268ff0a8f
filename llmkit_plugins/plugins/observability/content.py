"""Prompts and answers as span attributes: redacted, bounded, and only where somebody asked for them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

log = logging.getLogger("llmkit")

Redact = Callable[[str], str]
"""Given each text before it is cut and recorded; returns what may be."""

_ROLES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant"}
"""LangChain's words for the conventions' roles."""


class Content:
    """Writes messages as the GenAI conventions do, in JSON: of each prompt or answer at most *characters* of text.

    Where *redact* fails there is None: nothing is recorded that it has not seen.
    """

    def __init__(self, characters: int, redact: Redact | None = None) -> None:
        self._characters, self._redact = characters, redact or (lambda text: text)
        self._failed = False

    def prompt(self, messages: Any) -> str | None:
        """*messages* in any framework's form."""
        return self._written(messages if isinstance(messages, list | tuple) else [messages])

    def answer(self, raw: Any) -> str | None:
        """The answer in the framework's object *raw*; None for streams, whose chunks nobody keeps."""
        return None if raw is None else self._written(_answers(raw))

    def _written(self, messages: Iterable[Any]) -> str | None:
        try:
            return self._write(messages)
        except Exception as error:
            if not self._failed:
                log.error("prompts and answers are not recorded: %s", type(error).__qualname__)  # noqa: TRY400 - its text may quote them
            self._failed = True
            return None

    def _write(self, messages: Iterable[Any]) -> str:
        left, written = self._characters, []
        for message in messages:
            text = self._redact(_text(message))
            part = {"type": "text", "content": text if len(text) <= left else f"{text[:left]}…"}
            written.append({"role": _role(message), "parts": [part]})
            left -= len(text)
            if left <= 0:
                break
        return json.dumps(written, ensure_ascii=False)


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _role(message: Any) -> str:
    role = _get(message, "role") or _get(message, "type") or "user"
    return _ROLES.get(role, str(role))


def _text(message: Any) -> str:
    content = message if isinstance(message, str) else _get(message, "content")
    if content is None:
        content = _get(message, "text") or ""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=repr)


def _answers(raw: Any) -> list[Any]:
    """The messages in OpenAI's or LangChain's form of a result; anything else is one itself."""
    if choices := _get(raw, "choices"):
        return [{"role": "assistant", "content": _text(_get(choice, "message") or choice)} for choice in choices]
    if generations := _get(raw, "generations"):
        flat = [one for each in generations for one in (each if isinstance(each, list) else [each])]
        return [{"role": "assistant", "content": _text(_get(one, "message") or one)} for one in flat]
    return [{"role": "assistant", "content": raw if isinstance(raw, str) else _text(raw)}]
