"""A request to LiteLLM, made through a kit: what every entrance has in common."""

from __future__ import annotations

from typing import Any

from llmkit_litellm import compat
from llmkit_litellm.compat import CustomStreamWrapper
from llmkit_litellm.errors import as_litellm
from llmkit_litellm.streams import KitStream, Opening
from llmkit_plugins.backend import Backend
from llmkit_plugins.call import Call
from llmkit_plugins.errors import LLMKitError
from llmkit_plugins.kit import LLMKit

_END: Any = object()


def make(kit: LLMKit, call: Call, backend: Backend) -> Any:
    """What the caller gets for *call*: the answer, or a stream that has been opened. Raises what LiteLLM's users
    catch."""
    try:
        if not call.stream:
            return kit.call(call, backend).raw
        source = kit.stream(call, backend)
        first = next(source, _END)
        if _is_whole(first):
            list(source)
            return first.stream
    except LLMKitError as error:
        raise as_litellm(error, call.model) from error
    return _stream(call, source, first)


async def amake(kit: LLMKit, call: Call, backend: Backend) -> Any:
    """The same, awaiting."""
    try:
        if not call.stream:
            return (await kit.acall(call, backend)).raw
        source = kit.astream(call, backend)
        first = await anext(source, _END)
        if _is_whole(first):
            [_ async for _ in source]
            return first.stream
    except LLMKitError as error:
        raise as_litellm(error, call.model) from error
    return _stream(call, source, first)


def _is_whole(first: Any) -> bool:
    """Whether LiteLLM answered the wish for a stream with a whole answer."""
    return isinstance(first, Opening) and not isinstance(first.stream, CustomStreamWrapper)


def _stream(call: Call, source: Any, first: Any) -> KitStream:
    if isinstance(first, Opening):
        return KitStream(source, first.stream)
    held = () if first is _END else (first,)  # a plugin answered: no provider is behind it
    return KitStream(source, compat.unsent_stream(call.id, call.model, call.messages), held)
