"""A request to LiteLLM, made through a kit: what all entry points share."""

from __future__ import annotations

from typing import Any

from llmkit_litellm import compat, followers
from llmkit_litellm.errors import as_litellm
from llmkit_litellm.operations import Request
from llmkit_litellm.streams import Opening, caller_stream
from llmkit_plugins.backend import Backend
from llmkit_plugins.errors import LLMKitError
from llmkit_plugins.kit import LLMKit

_END: Any = object()


def make(kit: LLMKit, request: Request, backend: Backend) -> Any:
    """What the caller gets for *request*: the answer, or an opened stream. Raises the errors that LiteLLM's users
    catch."""
    call = request.call
    try:
        if not call.stream:
            return followers.told(request, kit.call(call, backend).raw)
        source = kit.stream(call, backend)
        first = next(source, _END)
        if _is_whole(first):
            list(source)
            return followers.told(request, first.stream)
    except LLMKitError as error:
        raise as_litellm(error, call.model) from error
    return _stream(request, source, first)


async def amake(kit: LLMKit, request: Request, backend: Backend) -> Any:
    """The same, async."""
    call = request.call
    try:
        if not call.stream:
            return followers.told(request, (await kit.acall(call, backend)).raw)
        source = kit.astream(call, backend)
        first = await anext(source, _END)
        if _is_whole(first):
            [_ async for _ in source]
            return followers.told(request, first.stream)
    except LLMKitError as error:
        raise as_litellm(error, call.model) from error
    return _stream(request, source, first)


def _is_whole(first: Any) -> bool:
    """Whether LiteLLM gave a whole answer to a call that asked for a stream."""
    return isinstance(first, Opening) and not compat.is_stream(first.stream)


def _stream(request: Request, source: Any, first: Any) -> Any:
    if isinstance(first, Opening):
        return caller_stream(request, source, first.stream)
    call, held = request.call, () if first is _END else (first,)  # a plugin answered, not a provider
    return caller_stream(request, source, compat.unsent_stream(call.id, call.model, call.messages), held)
