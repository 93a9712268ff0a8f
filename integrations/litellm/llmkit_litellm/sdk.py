"""LiteLLM's own functions, replaced: a Router's attempts are followed, other calls go through a kit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

import litellm

from llmkit_litellm import attempts, compat
from llmkit_litellm.backends import LiteLLMBackend, RouterBackend, SDKBackend
from llmkit_litellm.journey import is_sending
from llmkit_litellm.making import amake, make
from llmkit_litellm.operations import CHAT, OPERATIONS, Operation, Request
from llmkit_litellm.seams import Seam, Seams
from llmkit_litellm.targets import Fallbacks, target_of
from llmkit_plugins.kit import LLMKit


class Installed:
    """The kit that ``install`` was given, if any."""

    kit: LLMKit | None = None


def _wrap(operation: Operation, function: Callable[..., Any]) -> Callable[..., Any]:
    """A replacement for LiteLLM's sync *function* for *operation*."""
    names = tuple(inspect.signature(function).parameters)

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        send = partial(function, *args, **kwargs)
        if is_sending():
            return send()
        if (journey := attempts.sent_on_the_way(kwargs)) is not None:
            return attempts.send(journey, send, kwargs)
        if (kit := Installed.kit) is not None and not _is_litellms_own(kwargs):
            arguments = {**dict(zip(names, args, strict=False)), **kwargs}
            backend = _backend(kit, operation, send, arguments)
            return make(kit, Request(operation, arguments, awaits=False), backend)
        return send()

    return called


def _awrap(operation: Operation, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for the async function."""
    names = tuple(inspect.signature(function).parameters)

    @wraps(function)
    async def called(*args: Any, **kwargs: Any) -> Any:
        send = partial(function, *args, **kwargs)
        if is_sending():
            return await send()
        if (journey := attempts.sent_on_the_way(kwargs)) is not None:
            return await attempts.asend(journey, send, kwargs)
        if (kit := Installed.kit) is not None and not _is_litellms_own(kwargs):
            arguments = {**dict(zip(names, args, strict=False)), **kwargs}
            backend = _backend(kit, operation, send, arguments)
            return await amake(kit, Request(operation, arguments, awaits=True), backend)
        return await send()

    return called


def _is_litellms_own(kwargs: Mapping[str, Any]) -> bool:
    """Whether it is a health check, or a Router sends it for a call that did not come through us (``/v1/messages``): a
    refusal here would mark the deployment as broken."""
    return bool((kwargs.get("model_info") or {}).get("id")) or compat.asks_after_health(kwargs)


def _backend(
    kit: LLMKit, operation: Operation, send: Callable[..., Any], arguments: Mapping[str, Any]
) -> LiteLLMBackend:
    """How to send a call: if a chat has fallbacks, LiteLLM calls itself for each, and each is an attempt."""
    if operation is CHAT and arguments.get("fallbacks"):
        return RouterBackend(send, kit, Fallbacks())
    return SDKBackend(send, target_of(arguments))


SDK = Seams(
    *(Seam(litellm, operation.function, partial(_wrap, operation)) for operation in OPERATIONS),
    *(Seam(litellm, f"a{operation.function}", partial(_awrap, operation)) for operation in OPERATIONS),
)
"""The functions that Routers look up when they send, and that callers of the SDK use."""
