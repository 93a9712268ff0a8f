"""``/v1/chat/completions``: a text, a tool call or JSON, as the request asks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, ClassVar

from llmkit_plugins.call import new_id
from llmkit_plugins.testing.fake_provider.answer import Choice, Json, Say, TextAnswer
from llmkit_plugins.testing.fake_provider.api_error import ApiError
from llmkit_plugins.testing.fake_provider.order import Order, count_tokens, tokens_of
from llmkit_plugins.testing.fake_provider.schema import example_of


class ChatAnswer(TextAnswer):
    """The answer to a chat request."""

    prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    closing: ClassVar[Json] = {"delta": {}}

    def spoken(self, choice: Choice, /) -> Json:
        """*choice* whole."""
        message: Json = {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []}
        if choice.tool is not None:
            message |= {"content": None, "tool_calls": [_tool_call(choice.tool, choice.text)]}
        return {"message": message}

    def opening(self, choice: Choice, /) -> Iterable[Json]:
        """The role with empty content; for a tool call also its name."""
        delta: Json = {"role": "assistant", "content": "", "refusal": None}
        if choice.tool is not None:
            delta |= {"content": None, "tool_calls": [{"index": 0, **_tool_call(choice.tool, "")}]}
        yield {"delta": delta}

    def piece(self, choice: Choice, token: str, /) -> Json:
        """One token of it."""
        if choice.tool is None:
            return {"delta": {"content": token}}
        return {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": token}}]}}


def _tool_call(name: str, arguments: str) -> Json:
    return {"id": f"call_{new_id()}", "type": "function", "function": {"name": name, "arguments": arguments}}


def answer_chat(order: Order, say: Say) -> ChatAnswer:
    """Answer a chat. Raises ``ApiError`` if the request is not valid."""
    messages = order.body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(each, Mapping) for each in messages):
        raise ApiError(400, "Invalid 'messages': expected a list of at least one message.", param="messages")
    most = order.number("max_completion_tokens", "max_tokens")
    tool = _tool_to_call(order.body, [str(message.get("role")) for message in messages])
    choices = [_choice(order.body, tool, say).cut(most) for _ in range(order.number("n") or 1)]
    return ChatAnswer(order, choices, count_tokens(messages))


def _choice(body: Mapping[str, Any], tool: Mapping[str, Any] | None, say: Say) -> Choice:
    if tool is None:
        return Choice(tokens_of(_formatted(say(body), body.get("response_format") or {})))
    arguments = json.dumps(example_of(tool.get("parameters") or {"type": "object"}))
    return Choice(tokens_of(arguments), "tool_calls", tool["name"])


def _tool_to_call(body: Mapping[str, Any], roles: Sequence[str]) -> Mapping[str, Any] | None:
    """The function to call: the one that was named; else each in turn after a user's message, and after the last the
    first again if one is required."""
    functions = dict(_functions(body.get("tools") or ()))
    wanted = body.get("tool_choice", "auto" if functions else "none")
    if isinstance(wanted, Mapping):
        name = (wanted.get("function") or {}).get("name")
        if name not in functions:
            raise ApiError(400, f"Tool choice '{name}' not found in 'tools' parameter.", param="tool_choice")
        return functions[name]
    if wanted not in ("none", "auto", "required"):
        raise ApiError(400, f"Invalid value for 'tool_choice': '{wanted}'.", param="tool_choice")
    if wanted == "required" and not functions:
        raise ApiError(400, "'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice")
    if wanted == "none" or (wanted == "auto" and roles[-1] not in ("user", "tool")):
        return None
    called = list(takewhile("user".__ne__, reversed(roles))).count("tool")
    left = [*functions.values()][called:] or ([*functions.values()] if wanted == "required" else [])
    return left[0] if left else None


def _functions(tools: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for index, tool in enumerate(tools):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, Mapping) or not function.get("name"):
            raise ApiError(400, "Invalid tool: expected a function with a name.", param=f"tools[{index}]")
        yield function["name"], function


def _formatted(said: str, form: Mapping[str, Any]) -> str:
    """*said* in the requested format; unchanged if it is already a JSON object."""
    if form.get("type") not in ("json_object", "json_schema") or _is_json_object(said):
        return said
    if form["type"] == "json_object":
        return json.dumps({"answer": said})
    return json.dumps(example_of(form.get("json_schema", {}).get("schema") or {"type": "object"}))


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
