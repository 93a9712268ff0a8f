"""What makes two calls the same request: a strong hash of everything that affects the answer or who may see it."""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from hashlib import sha256
from types import FunctionType
from typing import Any

from llmkit_plugins.call import Call
from llmkit_plugins.conventions import CREDENTIAL, ROUTE_WISHES, is_volatile
from llmkit_plugins.plugins.multiplexer.canonical import (
    ATOMS,
    Unknown,
    identity,
    plain,
    plain_all,
    plain_mapping,
)
from llmkit_plugins.plugins.multiplexer.config import MultiplexerConfig

OPERATIONS = frozenset({"chat", "text_completion", "generate_content", "embeddings"})
"""Operations that only answer. Others (running a tool, creating an agent) may do more, once for each caller."""

VOLATILE = frozenset(
    {
        "callbacks",
        "idempotency_key",
        "max_retries",
        "metadata",
        "num_retries",
        "request_id",
        "request_timeout",
        "run_id",
        "run_manager",
        "run_name",
        "stream_timeout",
        "timeout",
        "trace_id",
    }
)
"""Parameters that distinguish requests but do not change the answer."""

USERS = frozenset({"user", "safety_identifier"})
"""Parameters that tell the provider who is asking; it answers everyone alike."""

_REFUSALS = ("no-cache", "no-store")
_MARKS = frozenset({"cache", "share", *_REFUSALS})


class Alone(Exception):
    """The call is not shared, and why. The reason contains no value from the call."""


class Keys:
    """Makes the keys of calls, according to *config*. Two calls with equal keys may share one answer."""

    def __init__(self, config: MultiplexerConfig) -> None:
        self._by_user = config.scope == "user"
        self._share_sampled = config.share_sampled
        self._metadata_keys = sorted(config.metadata_keys)
        self._ignored = VOLATILE | config.ignored_params | (frozenset() if self._by_user else USERS)

    def of(self, call: Call) -> bytes:
        """The key of *call*: a SHA-256, so that it reveals nothing about the call. Raises ``Alone``.

        Whether it is streamed is not in the key: users of the key keep streams and whole answers apart.
        """
        metadata, params = call.metadata, call.params
        self._check(call, params, metadata)
        try:
            tree = [
                call.operation,
                plain(call.model),
                plain(call.tenant),
                plain(call.user) if self._by_user else None,
                plain(metadata.get(CREDENTIAL)) if metadata else None,
                plain(metadata.get(ROUTE_WISHES)) if metadata else None,
                plain_all([metadata.get(name) for name in self._metadata_keys]) if self._metadata_keys else None,
                _messages(call.messages),
                self._params(params) if params else [],
            ]
            # version 2 is the last that writes equal trees equally: later ones mark interned and shared objects
            return sha256(marshal.dumps(tree, 2)).digest()
        except (TypeError, ValueError, RecursionError) as error:
            what = str(error) if isinstance(error, Unknown) else type(error).__name__
            raise Alone(f"it cannot be compared: {what}") from None

    def _check(self, call: Call, params: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        if call.operation not in OPERATIONS:
            raise Alone(f"{call.operation} may do more than answer")
        if not (_MARKS.isdisjoint(metadata) and _MARKS.isdisjoint(params)) and (_marked(metadata) or _marked(params)):
            raise Alone("it is marked not to be shared or not to be cached")
        if params.get("n") not in (None, 1):
            raise Alone("it wants several answers")
        if self._by_user and call.user is None:
            raise Alone("its user is not known")
        if not self._share_sampled and _sampled(call):
            raise Alone("its answer is sampled")

    def _params(self, params: Mapping[str, Any]) -> list[Any]:
        tree: list[Any] = []
        ignored = self._ignored
        for name in sorted(params):
            if name not in ignored:
                value = params[name]
                if type(value) not in ATOMS:
                    value = _SPECIAL.get(name, plain)(value)
                if value is not None:
                    tree += name, value
        return tree


def _messages(messages: Any) -> Any:
    """A conversation: two strings for a message with only role and content, a tuple for any other message, a list for
    anything else."""
    if not isinstance(messages, list | tuple):
        return plain(messages)
    tree: list[Any] = []
    for message in messages:
        if type(message) is dict:
            if len(message) == 2:  # most are like this, and it takes a quarter of the time
                role, content = message.get("role"), message.get("content")
                if type(content) is str and type(role) is str:
                    tree.append(role)
                    tree.append(content)
                    continue
            tree += _message(message)
        else:
            tree.append([plain(message)])
    return tree


def _message(message: Mapping[str, Any]) -> list[Any]:
    if None in message.values():
        message = {name: value for name, value in message.items() if value is not None}
    names, values = plain_mapping(message)
    if names == ("content", "role") and type(values[0]) is type(values[1]) is str:
        return [values[1], values[0]]
    return [(names, values)]


def _headers(headers: Any) -> Any:
    if not isinstance(headers, Mapping):
        return plain(headers)
    lower = [(str(name).lower(), value) for name, value in headers.items()]
    for name, value in lower:
        if name == "cache-control" and any(word in str(value) for word in _REFUSALS):
            raise Alone("its headers ask not to cache it")
    return sorted((name, plain(value)) for name, value in lower if not is_volatile(name)) or None


def _tools(tools: Any) -> Any:
    """Tools may be functions; anywhere else, a function cannot be compared."""
    if not isinstance(tools, list | tuple):
        return plain(tools)
    return [identity(tool) if type(tool) is FunctionType else plain(tool) for tool in tools]


_SPECIAL = {"default_headers": _headers, "extra_headers": _headers, "headers": _headers, "tools": _tools}


def _marked(told: Mapping[str, Any]) -> bool:
    """Whether metadata or parameters ask not to share or cache; when in doubt, they do."""
    cache = told.get("cache")
    return (
        told.get("share") not in (None, True)
        or any(told.get(word) for word in _REFUSALS)
        or cache is False
        or (isinstance(cache, Mapping) and any(cache.get(word) for word in _REFUSALS))
        or (isinstance(cache, str) and cache in _REFUSALS)
    )


def _sampled(call: Call) -> bool:
    if call.operation == "embeddings" or call.params.get("seed") is not None:
        return False
    return bool(call.params.get("temperature") != 0)
