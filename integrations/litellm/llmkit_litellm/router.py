"""``LLMKitRouter``, a Router with a kit of its own, and what ``install`` does to all others."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Mapping
from functools import partial, wraps
from typing import Any

from litellm.router import Router

from llmkit_litellm import compat
from llmkit_litellm.backends import RouterBackend
from llmkit_litellm.calls import call_of
from llmkit_litellm.journey import is_sending, journey_under_way
from llmkit_litellm.making import amake, make
from llmkit_litellm.routing import steered
from llmkit_litellm.sdk import SDK, Installed
from llmkit_litellm.seams import Seam, Seams
from llmkit_litellm.targets import Book
from llmkit_plugins.kit import LLMKit

_books: weakref.WeakKeyDictionary[Any, Book] = weakref.WeakKeyDictionary()


class LLMKitRouter(Router):
    """A ``litellm.Router`` whose calls go through *kit*; it takes everything else that a Router takes.

    The deployments are the targets, each named by its id. LiteLLM keeps its cooldowns, tags, checks, retries and
    fallbacks, and its routing strategy proposes; the plugins decide. A refusal is raised as LiteLLM's own class too.
    """

    def __init__(self, *args: Any, kit: LLMKit, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kit = kit
        SDK.hold()
        weakref.finalize(self, SDK.release)

    def completion(self, model: str, messages: Any, **kwargs: Any) -> Any:
        """As ``litellm.Router.completion``, through the kit."""
        send = partial(super().completion, model, messages, **kwargs)
        return _route(self.kit, self, send, {"model": model, "messages": messages, **kwargs})

    async def acompletion(self, model: str, messages: Any, stream: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002
        """As ``litellm.Router.acompletion``, through the kit."""
        send: Any = partial(super().acompletion, model, messages, stream=stream, **kwargs)
        return await _aroute(self.kit, self, send, {"model": model, "messages": messages, "stream": stream, **kwargs})

    def _get_routing_context(self, model: str, request_kwargs: dict[str, Any] | None = None) -> Any:
        return steered(self, super()._get_routing_context(model, request_kwargs), request_kwargs)


def _route(kit: LLMKit | None, router: Any, send: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:
    """Make a call through *router*, unless the plugins know of it already."""
    if kit is None or is_sending() or _is_known(arguments):
        return send()
    return make(kit, call_of(arguments), RouterBackend(send, kit, _book(router, kit)))


async def _aroute(
    kit: LLMKit | None, router: Any, send: Callable[[], Awaitable[Any]], arguments: Mapping[str, Any]
) -> Any:
    """The same, awaiting."""
    if kit is None or is_sending() or _is_known(arguments):
        return await send()
    return await amake(kit, call_of(arguments), RouterBackend(send, kit, _book(router, kit)))


def _is_known(arguments: Mapping[str, Any]) -> bool:
    """Whether a Router calls itself for a call that is under way: its scheduler does."""
    journey = journey_under_way()
    return journey is not None and journey.call.messages is arguments["messages"]


def _book(router: Any, kit: LLMKit) -> Book:
    """The targets of *router*, as *kit* knows them."""
    book = _books.get(compat.core(router))
    if book is None or book.own is not kit.targets:
        book = _books[compat.core(router)] = Book(kit.targets)
    return book


# -- every Router ---------------------------------------------------------------------------------------------------


def _kit_of(router: Any) -> LLMKit | None:
    """The installed kit, for a Router without one of its own."""
    return None if isinstance(router, LLMKitRouter) else Installed.kit


def _wrap_completion(completion: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(completion)
    def completed(self: Any, model: str, messages: Any, **kwargs: Any) -> Any:
        send = partial(completion, self, model, messages, **kwargs)
        return _route(_kit_of(self), self, send, {"model": model, "messages": messages, **kwargs})

    return completed


def _wrap_acompletion(acompletion: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(acompletion)
    async def acompleted(self: Any, model: str, messages: Any, stream: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002
        send = partial(acompletion, self, model, messages, stream=stream, **kwargs)
        arguments = {"model": model, "messages": messages, "stream": stream, **kwargs}
        return await _aroute(_kit_of(self), self, send, arguments)

    return acompleted


def _wrap_routing_context(routing_context: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(routing_context)
    def steering(self: Any, model: str, request_kwargs: Any = None) -> Any:
        return steered(self, routing_context(self, model, request_kwargs), request_kwargs)

    return steering


ROUTERS = Seams(
    Seam(Router, "completion", _wrap_completion),
    Seam(Router, "acompletion", _wrap_acompletion),
    Seam(Router, "_get_routing_context", _wrap_routing_context),
)
"""All Routers there are and will be."""
