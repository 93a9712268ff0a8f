"""Prompts and answers as span attributes: redacted, bounded, and only if enabled."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from llmkit_plugins.plugins.observability.text import writable

log = logging.getLogger("llmkit")

Redact = Callable[[str], str]
"""Given each text before it is truncated and recorded; returns what may be recorded."""

_ROLES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant"}
"""LangChain's names for the conventions' roles."""

_CALLS = frozenset({"tool_use", "tool_call", "tool_call_chunk", "function_call", "input_json_delta"})
"""Content blocks that LangChain messages also have in ``tool_calls``."""


class Content:
    """Writes messages as the GenAI conventions do, in JSON, with at most *characters* of text per prompt or answer.

    If *redact* fails the result is None: nothing is recorded that it has not processed.
    """

    def __init__(self, characters: int, redact: Redact | None = None) -> None:
        self._characters, self._redact = characters, redact or (lambda text: text)
        self._failed = False

    def prompt(self, messages: Any) -> str | None:
        """*messages* in any framework's form."""
        return self._written(lambda: map(_said, messages if isinstance(messages, list | tuple) else [messages]))

    def answer(self, raw: Any, finish_reason: str | None = None) -> str | None:
        """The answer in the framework's object *raw*, which ended with *finish_reason*."""
        return self._written(lambda: _answers(raw), finish_reason)

    def streamed(self, heard: Heard, finish_reason: str | None = None) -> str | None:
        """What was *heard* of a stream."""
        return self._written(heard.answers, finish_reason)

    def _written(self, said: Callable[[], Iterable[Said]], finish_reason: str | None = None) -> str | None:
        try:
            return self._write(said(), finish_reason)
        except Exception as error:
            if not self._failed:
                log.error("prompts and answers are not recorded: %s", type(error).__qualname__)  # noqa: TRY400 - its text may quote them
            self._failed = True
            return None

    def _write(self, said: Iterable[Said], finish_reason: str | None) -> str:
        left, written = _Left(self._characters), []
        for role, text, tools in said:
            parts: list[dict[str, Any]] = []
            if text or not tools:
                parts.append({"type": "text", "content": left.of(self._redact(text))})
            for tool in tools:
                arguments = left.of(self._redact(tool.arguments))
                parts.append({"type": "tool_call", "id": tool.id, "name": tool.name, "arguments": arguments})
            written.append({"role": role, "parts": parts})
            if finish_reason is not None:
                written[-1]["finish_reason"] = finish_reason
            if left.characters <= 0:
                break
        return writable(json.dumps(written, ensure_ascii=False))


class Heard:
    """What the chunks of a stream say, in OpenAI's form, LiteLLM's or LangChain's, or as plain text."""

    def __init__(self) -> None:
        self._texts: dict[int, list[str]] = {}
        self._tools: dict[tuple[int, Any], Tool] = {}

    def hear(self, chunk: Any) -> None:
        """Take in the next chunk; anything else is ignored."""
        for choice in _get(chunk, "choices") or [chunk]:
            index = _get(choice, "index")
            place = index if isinstance(index, int) else 0
            delta = _get(choice, "delta") or _get(choice, "message") or choice
            if text := _text(delta):
                self._texts.setdefault(place, []).append(text)
            for tool in _get(delta, "tool_call_chunks") or _get(delta, "tool_calls") or ():
                self._hear_tool(place, _get(tool, "index"), _tool(tool))

    def _hear_tool(self, place: int, index: Any, part: Tool) -> None:
        known = self._tools.get((place, index), Tool(None, "", ""))
        self._tools[place, index] = Tool(part.id or known.id, known.name or part.name, known.arguments + part.arguments)

    def answers(self) -> Iterator[Said]:
        """What was said so far, by choice."""
        for place in sorted({*self._texts, *(place for place, _ in self._tools)}):
            tools = [tool for (where, _), tool in self._tools.items() if where == place]
            yield Said("assistant", "".join(self._texts.get(place, ())), tools)


class Tool(NamedTuple):
    """A tool call."""

    id: str | None
    name: str
    arguments: str
    """In JSON."""


class Said(NamedTuple):
    """One message."""

    role: str
    text: str
    tools: Sequence[Tool] = ()


class _Left:
    """How many characters may still be recorded."""

    def __init__(self, characters: int) -> None:
        self.characters = characters

    def of(self, text: str) -> str:
        left, self.characters = max(0, self.characters), self.characters - len(text)
        return text if len(text) <= left else f"{text[:left]}…"


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _said(message: Any) -> Said:
    role = _get(message, "role") or _get(message, "type") or "user"
    return Said(
        _ROLES.get(role, str(role)), _text(message), [_tool(tool) for tool in _get(message, "tool_calls") or ()]
    )


def _text(message: Any) -> str:
    content = message if isinstance(message, str) else _get(message, "content")
    if content is None:
        content = _get(message, "text") or ""
    return content if isinstance(content, str) else "".join(map(_block, content))


def _block(block: Any) -> str:
    """A content block as text: its text, nothing if it is a call that the message also has elsewhere, else its JSON."""
    if isinstance(block, str):
        return block
    kind, text = _get(block, "type"), _get(block, "text")
    if kind in _CALLS:
        return ""
    return text if isinstance(text, str) else json.dumps(block, ensure_ascii=False, default=repr)


def _tool(tool: Any) -> Tool:
    """A tool call, or the next part of one, in OpenAI's or LangChain's form."""
    named = _get(tool, "function") or tool
    arguments = _get(named, "arguments") or _get(named, "args") or ""
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, default=repr)
    return Tool(_get(tool, "id"), str(_get(named, "name") or ""), arguments)


def _answers(raw: Any) -> list[Said]:
    """The messages in a result of OpenAI's or LangChain's form; anything else is a message itself."""
    if choices := _get(raw, "choices"):
        answers = [_get(choice, "message") or choice for choice in choices]
    elif generations := _get(raw, "generations"):
        flat = [one for each in generations for one in (each if isinstance(each, list) else [each])]
        answers = [_get(one, "message") or one for one in flat]
    else:
        answers = [raw]
    return [_said(answer)._replace(role="assistant") for answer in answers]
