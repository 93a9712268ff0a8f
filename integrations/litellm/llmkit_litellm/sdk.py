"""``litellm.completion`` and ``acompletion``, replaced: a Router's attempts are followed, other calls go through a
kit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

import litellm

from llmkit_litellm import attempts
from llmkit_litellm.backends import SDKBackend
from llmkit_litellm.calls import call_of
from llmkit_litellm.journey import is_sending
from llmkit_litellm.making import amake, make
from llmkit_litellm.seams import Seam, Seams
from llmkit_litellm.targets import sdk_target
from llmkit_plugins.call import Target
from llmkit_plugins.kit import LLMKit


class Installed:
    """The kit that ``install`` was given, if any."""

    kit: LLMKit | None = None


def _wrap_completion(completion: Callable[..., Any]) -> Callable[..., Any]:
    """``litellm.completion``, to be put in its place."""
    names = tuple(inspect.signature(completion).parameters)

    @wraps(completion)
    def completed(*args: Any, **kwargs: Any) -> Any:
        send = partial(completion, *args, **kwargs)
        if is_sending():
            return send()
        if (journey := attempts.sent_by_router(kwargs)) is not None:
            return attempts.send(journey, send, kwargs)
        if (kit := Installed.kit) is not None:
            arguments = {**dict(zip(names, args, strict=False)), **kwargs}
            return make(kit, call_of(arguments), SDKBackend(send, _target(arguments)))
        return send()

    return completed


def _wrap_acompletion(acompletion: Callable[..., Any]) -> Callable[..., Any]:
    """``litellm.acompletion``, to be put in its place."""
    names = tuple(inspect.signature(acompletion).parameters)

    @wraps(acompletion)
    async def acompleted(*args: Any, **kwargs: Any) -> Any:
        send = partial(acompletion, *args, **kwargs)
        if is_sending():
            return await send()
        if (journey := attempts.sent_by_router(kwargs)) is not None:
            return await attempts.asend(journey, send, kwargs)
        if (kit := Installed.kit) is not None:
            arguments = {**dict(zip(names, args, strict=False)), **kwargs}
            return await amake(kit, call_of(arguments), SDKBackend(send, _target(arguments)))
        return await send()

    return acompleted


def _target(arguments: Mapping[str, Any]) -> Target:
    api_base = arguments.get("api_base") or arguments.get("base_url")
    return sdk_target(str(arguments.get("model")), arguments.get("custom_llm_provider"), api_base)


SDK = Seams(Seam(litellm, "completion", _wrap_completion), Seam(litellm, "acompletion", _wrap_acompletion))
"""What every Router looks up when it sends, and what callers of the SDK do."""
