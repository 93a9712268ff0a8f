"""``LLMKitRouter``, a Router with a kit of its own, and what ``install`` does to all others."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Awaitable, Callable, Mapping
from functools import partial, wraps
from typing import Any

import litellm
from litellm.router import Router

from llmkit_litellm import compat
from llmkit_litellm.backends import RouterBackend
from llmkit_litellm.journey import is_sending, journey_under_way
from llmkit_litellm.limits import limit_deployments
from llmkit_litellm.making import amake, make
from llmkit_litellm.operations import CHAT, EMBEDDINGS, RESPONSES, TEXT, Operation, Request
from llmkit_litellm.routing import steered
from llmkit_litellm.sdk import SDK, Installed
from llmkit_litellm.seams import Seam, Seams
from llmkit_litellm.targets import Book
from llmkit_plugins.given import given_kit
from llmkit_plugins.kit import LLMKit

_books: weakref.WeakKeyDictionary[Any, Book] = weakref.WeakKeyDictionary()


class LLMKitRouter(compat.OpenRouter):
    """A ``litellm.Router`` whose calls go through *kit*; it accepts everything else that a Router accepts.

    The deployments are the targets, each named by its id; a kit that limits respects their ``rpm`` and ``tpm``. LiteLLM
    keeps its cooldowns, tags, checks, retries and fallbacks, and its routing strategy proposes a deployment; the
    plugins decide. A refusal is also raised as LiteLLM's own class. Raises ``ConfigError`` for anything that is not a
    kit.
    """

    def __init__(self, *args: Any, kit: LLMKit, **kwargs: Any) -> None:
        given_kit(kit)
        super().__init__(*args, **kwargs)
        self.kit = kit
        limit_deployments(kit)
        SDK.hold()
        weakref.finalize(self, SDK.release)

    def completion(self, model: str, messages: Any, **kwargs: Any) -> Any:
        """As ``litellm.Router.completion``, through the kit."""
        send = partial(super().completion, model, messages, **kwargs)
        return _route(self.kit, self, CHAT, send, {"model": model, "messages": messages, **kwargs})

    async def acompletion(self, model: str, messages: Any, stream: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002
        """As ``litellm.Router.acompletion``, through the kit."""
        send: Any = partial(super().acompletion, model, messages, stream=stream, **kwargs)
        arguments = {"model": model, "messages": messages, "stream": stream, **kwargs}
        return await _aroute(self.kit, self, CHAT, send, arguments)

    def text_completion(self, model: str, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        """As ``litellm.Router.text_completion``, through the kit."""
        send = partial(super().text_completion, model, prompt, *args, **kwargs)
        return _route(self.kit, self, TEXT, send, {"model": model, "prompt": prompt, **kwargs})

    async def atext_completion(self, model: str, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        """As ``litellm.Router.atext_completion``, through the kit."""
        send = partial(super().atext_completion, model, prompt, *args, **kwargs)
        return await _aroute(self.kit, self, TEXT, send, {"model": model, "prompt": prompt, **kwargs})

    def embedding(self, model: str, input: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """As ``litellm.Router.embedding``, through the kit."""
        send = partial(super().embedding, model, input, *args, **kwargs)
        return _route(self.kit, self, EMBEDDINGS, send, {"model": model, "input": input, **kwargs})

    async def aembedding(self, model: str, input: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """As ``litellm.Router.aembedding``, through the kit."""
        send = partial(super().aembedding, model, input, *args, **kwargs)
        return await _aroute(self.kit, self, EMBEDDINGS, send, {"model": model, "input": input, **kwargs})

    def send_responses(self, send: Any, model: str, function: Any, kwargs: dict[str, Any]) -> Any:
        return _route_generic(self.kit, self, send, model, function, kwargs)

    async def asend_responses(self, send: Any, function: Any, kwargs: dict[str, Any]) -> Any:
        return await _aroute_responses(self.kit, self, send, function, kwargs)

    def steer(self, context: Any, request_kwargs: Any) -> Any:
        return steered(self, context, request_kwargs)


def _route(
    kit: LLMKit | None, router: Any, operation: Operation, send: Callable[[], Any], arguments: Mapping[str, Any]
) -> Any:
    """Make a call through *router*, unless the plugins already know about it."""
    if kit is None or is_sending() or _is_known(operation, arguments):
        return send()
    return make(kit, Request(operation, arguments, awaits=False), RouterBackend(send, kit, _book(router, kit)))


async def _aroute(
    kit: LLMKit | None,
    router: Any,
    operation: Operation,
    send: Callable[[], Awaitable[Any]],
    arguments: Mapping[str, Any],
) -> Any:
    """The same, async."""
    if kit is None or is_sending() or _is_known(operation, arguments):
        return await send()
    return await amake(kit, Request(operation, arguments, awaits=True), RouterBackend(send, kit, _book(router, kit)))


def _route_generic(kit: LLMKit | None, router: Any, send: Any, model: str, function: Any, kwargs: Any) -> Any:
    """Make a call to LiteLLM's *function*; only ``litellm.responses`` goes through the plugins.

    A Router holds the function it found when it was created; the module's may have been replaced by ours since.
    """
    if getattr(function, "__name__", None) != RESPONSES.function:
        return send(model, function, **kwargs)
    sent = partial(send, model, litellm.responses, **kwargs)
    return _route(kit, router, RESPONSES, sent, {"model": model, **kwargs})


async def _aroute_responses(kit: LLMKit | None, router: Any, send: Any, function: Any, kwargs: Any) -> Any:
    """The same, async."""
    sent = partial(send, function if kit is None else litellm.aresponses, **kwargs)
    return await _aroute(kit, router, RESPONSES, sent, kwargs)


def _is_known(operation: Operation, arguments: Mapping[str, Any]) -> bool:
    """Whether this is a Router calling itself for a call already under way, as its scheduler does."""
    journey = journey_under_way()
    if journey is None or journey.call.messages is not arguments.get(operation.prompt):
        return False
    return journey.call.model == arguments.get("model")  # a hook may have another model judge the prompt


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


def _wrap(operation: Operation, method: Callable[..., Any]) -> Callable[..., Any]:
    """A replacement for a Router's sync *method* for *operation*."""
    names = tuple(inspect.signature(method).parameters)[1:]

    @wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        send = partial(method, self, *args, **kwargs)
        return _route(_kit_of(self), self, operation, send, {**dict(zip(names, args, strict=False)), **kwargs})

    return called


def _awrap(operation: Operation, method: Callable[..., Any]) -> Callable[..., Any]:
    """The same for the async method."""
    names = tuple(inspect.signature(method).parameters)[1:]

    @wraps(method)
    async def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        send = partial(method, self, *args, **kwargs)
        return await _aroute(_kit_of(self), self, operation, send, {**dict(zip(names, args, strict=False)), **kwargs})

    return called


def _wrap_generic(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def called(self: Any, model: str, original_function: Any, **kwargs: Any) -> Any:
        return _route_generic(_kit_of(self), self, partial(method, self), model, original_function, kwargs)

    return called


def _awrap_responses(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    async def called(self: Any, original_function: Any, **kwargs: Any) -> Any:
        return await _aroute_responses(_kit_of(self), self, partial(method, self), original_function, kwargs)

    return called


def _wrap_routing_context(routing_context: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(routing_context)
    def steering(self: Any, model: str, request_kwargs: Any = None) -> Any:
        return steered(self, routing_context(self, model, request_kwargs), request_kwargs)

    return steering


_METHODS = (CHAT, TEXT, EMBEDDINGS)
"""The operations that are methods of the Router class; the responses API is an instance attribute."""

ROUTERS = Seams(
    *(Seam(Router, operation.function, partial(_wrap, operation)) for operation in _METHODS),
    *(Seam(Router, f"a{operation.function}", partial(_awrap, operation)) for operation in _METHODS),
    Seam(Router, compat.RESPONSES, _wrap_generic),
    Seam(Router, compat.ARESPONSES, _awrap_responses),
    Seam(Router, compat.ROUTING_CONTEXT, _wrap_routing_context),
    Seam(Router, "print_deployment", compat.unread),
)
"""All Routers, existing and future."""
