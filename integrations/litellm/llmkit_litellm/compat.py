"""Everything in LiteLLM that is private or differs between versions: whatever an upgrade breaks, it breaks here.

``tests/integrations/litellm/test_compat.py`` has a test for each assumption.
"""
# ruff: noqa: SLF001 - private names are what this is about

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from copy import deepcopy
from datetime import datetime
from functools import wraps
from typing import Any, TypeVar, cast

from litellm._logging import verbose_router_logger
from litellm.constants import LITTELM_INTERNAL_HEALTH_SERVICE_ACCOUNT_NAME as HEALTH_CHECK
from litellm.exceptions import MidStreamFallbackError
from litellm.litellm_core_utils.litellm_logging import Logging
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper
from litellm.litellm_core_utils.thread_pool_executor import executor
from litellm.main import stream_chunk_builder
from litellm.responses.streaming_iterator import BaseResponsesAPIStreamingIterator
from litellm.router import Router
from litellm.router_strategy.simple_shuffle import simple_shuffle
from litellm.types.router import RouterRateLimitError, RouterRateLimitErrorBasic
from litellm.utils import TextCompletionStreamWrapper, function_setup
from pydantic import BaseModel

__all__ = [
    "ARESPONSES",
    "PROXY_TENANT",
    "PROXY_USER",
    "RESPONSES",
    "ROUTING_CONTEXT",
    "SHUFFLE",
    "STRATEGY",
    "STREAMS",
    "CustomStreamWrapper",
    "Deployment",
    "MidStreamFallbackError",
    "OpenRouter",
    "RouterRateLimitError",
    "RouterRateLimitErrorBasic",
    "aclose_stream",
    "aclosing",
    "apart",
    "apick",
    "asks_after_health",
    "assembled",
    "at_proxy_shutdown",
    "atell_of_hit",
    "attribute",
    "attributes",
    "came_through_proxy",
    "close_stream",
    "closing",
    "copied",
    "core",
    "describe",
    "hidden",
    "is_cached",
    "is_stream",
    "log_in_thread",
    "log_later",
    "made_up_the_end",
    "mark_cached",
    "new_log",
    "own_hidden",
    "pick",
    "resembling",
    "response_headers",
    "selects",
    "shuffled",
    "stream_class",
    "tell_of_hit",
    "unread",
    "unsent_stream",
]

Deployment = Mapping[str, Any]
T = TypeVar("T")

ROUTING_CONTEXT = "_get_routing_context"
"""The Router method that returns the strategy and selector it uses."""

RESPONSES, ARESPONSES = "_generic_api_call_with_fallbacks", "_aresponses_with_streaming_fallbacks"
"""The Router methods that send the responses API, sync and async; its public methods are instance attributes."""

SHUFFLE = "simple-shuffle"
"""The default strategy, which has no selector."""

STRATEGY = "latency-based-routing"
"""The strategy whose selector is told everything, sync and async: the one a Router believes it has while we select."""

_SHUFFLE_TAKES_REQUEST = "request_kwargs" in inspect.signature(simple_shuffle).parameters
_PREFIX = "llm_provider-"

_INSIDE = ("completion_stream", "litellm_custom_stream_wrapper", "response")

STREAMS: tuple[type[Any], ...] = (
    CustomStreamWrapper,
    TextCompletionStreamWrapper,
    BaseResponsesAPIStreamingIterator,
)
"""LiteLLM's stream classes: for chats, text completions and the responses API."""


def unread(print_deployment: Callable[..., Any]) -> Callable[..., Any]:
    """A Router's *print_deployment*, which copies the selected deployment for a log line, skipped when that log level
    is off: by default a Router has no selector, and so no such line."""

    @wraps(print_deployment)
    def printed(self: Any, deployment: Any) -> Any:
        return print_deployment(self, deployment) if verbose_router_logger.isEnabledFor(logging.INFO) else {}

    return printed


class OpenRouter(Router):
    """A Router with these methods as hooks into LiteLLM's private ones."""

    print_deployment = unread(Router.print_deployment)

    def steer(self, context: tuple[Any, Any], request_kwargs: Mapping[str, Any] | None) -> tuple[Any, Any]:  # noqa: ARG002
        """The strategy and selector to use; LiteLLM's own are *context*."""
        return context

    def send_responses(self, send: Callable[..., Any], model: str, function: Any, kwargs: dict[str, Any]) -> Any:
        """Send through LiteLLM's *function*, which takes *kwargs*: the responses API, among others."""
        return send(model, function, **kwargs)

    async def asend_responses(self, send: Callable[..., Any], function: Any, kwargs: dict[str, Any]) -> Any:
        """The async variant; only for the responses API."""
        return await send(function, **kwargs)

    def _get_routing_context(self, model: str, request_kwargs: dict[str, Any] | None = None) -> Any:
        return self.steer(super()._get_routing_context(model, request_kwargs), request_kwargs)

    def _generic_api_call_with_fallbacks(self, model: str, original_function: Any, **kwargs: Any) -> Any:
        return self.send_responses(super()._generic_api_call_with_fallbacks, model, original_function, kwargs)

    async def _aresponses_with_streaming_fallbacks(self, original_function: Any, **kwargs: Any) -> Any:
        return await self.asend_responses(super()._aresponses_with_streaming_fallbacks, original_function, kwargs)


def core(router: Any) -> Any:
    """The object that routes: since 1.109 a ``Router`` is a facade whose methods run on another object."""
    return getattr(router, "_core", router)


def selects(request_kwargs: Mapping[str, Any] | None) -> bool:
    """Whether a Router asks for its strategy to select a deployment; it also asks to decide on a weighted failover."""
    return "original_function" not in (request_kwargs or {})


def pick(
    router: Any, strategy: str | None, selector: Any, model: str, deployments: Sequence[Deployment], request: Any
) -> Any:
    """The deployment that LiteLLM's own *strategy*, other than shuffling, would pick, or None."""
    return router._select_deployment_sync(
        strategy=strategy, selector=selector, model=model, healthy_deployments=deployments, **request
    )


async def apick(
    router: Any, strategy: str | None, selector: Any, model: str, deployments: Sequence[Deployment], request: Any
) -> Any:
    """The same, for async strategies."""
    return await router._select_deployment_async(
        strategy=strategy, selector=selector, model=model, healthy_deployments=deployments, **request
    )


def shuffled(router: Any, model: str, deployments: Sequence[Deployment], request: Any) -> Any:
    """The deployment that LiteLLM's default strategy picks, at random by weight."""
    shuffle: Callable[..., Any] = simple_shuffle
    if not _SHUFFLE_TAKES_REQUEST:  # before 1.103
        return shuffle(llm_router_instance=router, healthy_deployments=deployments, model=model)
    return shuffle(
        resolve_model_alias=getattr(router, "_core_get_model_from_alias", None) or router.get_model_from_alias,
        healthy_deployments=deployments,
        model=model,
        request_kwargs=request["request_kwargs"],
    )


def apart(function: Callable[..., T], *args: Any) -> T:
    """Call *function* where no event loop runs. Inside one (a notebook), LiteLLM's sync Router continues in a thread
    without the context variables, so use a thread that has them."""
    if not _is_in_loop():
        return function(*args)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(copy_context().run, function, *args).result()


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# -- streams --------------------------------------------------------------------------------------------------------


async def aclose_stream(stream: Any) -> None:
    """Close the connection, however deep in *stream* it is."""
    for closable in _layers(stream):
        closes = getattr(closable, "aclose", None)
        if closes is not None:
            await closes()
            return


def close_stream(stream: Any) -> None:
    """The same for a sync stream: a ``CustomStreamWrapper`` itself only has ``aclose``."""
    for closable in _layers(stream):
        closes = getattr(closable, "close", None)
        if closes is not None and not inspect.iscoroutinefunction(closes):
            closes()
            return


def _layers(stream: Any) -> Iterator[Any]:
    """*stream*, what it reads from, and so on, down to the response."""
    while stream is not None:
        yield stream
        inside = (getattr(stream, name, None) for name in _INSIDE)
        stream = next((layer for layer in inside if layer is not None), None)


@contextmanager
def closing(stream: Any) -> Iterator[None]:
    """Close *stream* on exit."""
    try:
        yield
    finally:
        close_stream(stream)


@asynccontextmanager
async def aclosing(stream: Any) -> AsyncIterator[None]:
    """Close *stream* on exit, async."""
    try:
        yield
    finally:
        await aclose_stream(stream)


def is_stream(answer: Any) -> bool:
    """Whether LiteLLM answered with a stream."""
    return isinstance(answer, STREAMS)


def stream_class(stream: Any) -> type[Any]:
    """The class in :data:`STREAMS` that *stream* is an instance of: its own may be a subclass made just for it."""
    return next(base for base in STREAMS if isinstance(stream, base))


def resembling(cls: type[T], original: Any, source: Any) -> T:
    """A stream of *cls* that reads from *source* and has the attributes of *original*: constructing a new one costs
    0.5 ms."""
    stream: Any = cls.__new__(cls)
    vars(stream).update(vars(original))
    stream.completion_stream = source
    stream._hidden_params = own_hidden(original)
    return cast("T", stream)


def unsent_stream(call_id: str, model: str | None, messages: Any) -> CustomStreamWrapper:
    """A stream without a provider behind it."""
    log = Logging(
        model=model or "",
        messages=messages,
        stream=True,
        call_type="completion",
        start_time=datetime.now(),
        litellm_call_id=call_id,
        function_id=call_id,
    )
    return CustomStreamWrapper(completion_stream=None, model=model, logging_obj=log, custom_llm_provider="openai")


def is_cached(stream: Any) -> bool:
    """Whether *stream* replays an answer from LiteLLM's cache."""
    return getattr(stream, "custom_llm_provider", None) == "cached_response"


def made_up_the_end(stream: Any) -> bool:
    """Whether LiteLLM made up the last chunk's finish reason because the provider broke off without one."""
    if isinstance(stream, TextCompletionStreamWrapper):
        stream = stream.completion_stream
    return (
        isinstance(stream, CustomStreamWrapper)
        and stream.sent_last_chunk
        and stream.received_finish_reason is None
        and stream.intermittent_finish_reason is None
    )


# -- answers --------------------------------------------------------------------------------------------------------


def hidden(answer: Any) -> Mapping[str, Any]:
    """What LiteLLM knows about *answer* beyond what the provider said."""
    if isinstance(answer, BaseModel):  # going through the model takes 1 µs
        known = (answer.__pydantic_private__ or {}).get("_hidden_params")
    else:
        known = getattr(answer, "_hidden_params", None)
    return known or {}


def response_headers(answer: Any) -> dict[str, str]:
    """The provider's response headers, lower-case."""
    prefixed = hidden(answer).get("additional_headers") or {}
    return {
        str(name).lower().removeprefix(_PREFIX): str(value)
        for name, value in prefixed.items()
        if str(name).lower().startswith(_PREFIX)
    }


def attribute(model: Any, name: str) -> Any:
    """The attribute *name* of the pydantic *model*, or None. Faster than ``getattr``, which is slow for extra
    fields."""
    if not isinstance(model, BaseModel):
        return getattr(model, name, None)
    if name in (fields := model.__dict__):
        return fields[name]
    extra = model.__pydantic_extra__
    return None if extra is None else extra.get(name)


def attributes(answer: Any) -> Mapping[str, Any]:
    """All attributes of *answer*."""
    if not isinstance(answer, BaseModel):
        return getattr(answer, "__dict__", {})
    extra = answer.__pydantic_extra__
    return {**answer.__dict__, **extra} if extra else answer.__dict__


def copied(answer: Any) -> Any:
    """A separate copy of an answer or chunk: LiteLLM and its proxy modify them."""
    if not isinstance(answer, BaseModel):
        return answer
    own: Any = _copied(answer)
    if hidden(answer):
        own._hidden_params = own_hidden(answer)
    return own


_ATOMS = frozenset({str, int, float, bool, type(None)})
_put = object.__setattr__


def _copied(value: Any) -> Any:
    """A deep copy like pydantic's, but in 5 µs per chunk instead of 16: most of the cost of sharing it."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is dict:
        return {name: inner if type(inner) in _ATOMS else _copied(inner) for name, inner in value.items()}
    if kind is list:
        return [inner if type(inner) in _ATOMS else _copied(inner) for inner in value]
    if not isinstance(value, BaseModel):
        return deepcopy(value)
    own: Any = object.__new__(kind)
    private = value.__pydantic_private__
    _put(own, "__dict__", _copied(value.__dict__))
    _put(own, "__pydantic_extra__", _copied(value.__pydantic_extra__))
    _put(own, "__pydantic_fields_set__", set(value.__pydantic_fields_set__))
    _put(own, "__pydantic_private__", None if private is None else dict(private))
    return own


def own_hidden(answer: Any) -> dict[str, Any]:
    """A modifiable copy of what LiteLLM knows about *answer*: always a dict, though a text completion may have a
    model."""
    known = dict(hidden(answer))
    known["additional_headers"] = dict(known.get("additional_headers") or {})
    return known


def mark_cached(answer: Any, call_id: str) -> None:
    """Mark *answer* to the call with that id, whole or a stream, as LiteLLM marks answers from its cache."""
    if hasattr(answer, "_hidden_params"):
        told = {"cache_hit": True, "response_cost": 0.0, "litellm_call_id": call_id}
        answer._hidden_params = own_hidden(answer) | told


def assembled(chunks: Sequence[Any], messages: Any) -> Any:
    """The whole answer assembled from *chunks*."""
    return stream_chunk_builder(list(chunks), messages=messages if isinstance(messages, list) else None)


# -- telling callbacks ----------------------------------------------------------------------------------------------


class _NoRules:
    """No rules: the user's were already applied to the call that produced the answer."""

    def pre_call_rules(self, input: str, model: str) -> bool:  # noqa: A002, ARG002 - LiteLLM's names
        return True


def new_log(function: str, began: datetime, arguments: Mapping[str, Any], call_id: str) -> Any:
    """A logging object for a call to LiteLLM's *function*, made as LiteLLM makes it."""
    given = {**arguments, "litellm_call_id": call_id}
    log, _ = function_setup(function, _NoRules(), began, is_async_call=False, **given)  # type: ignore[arg-type]
    return log


def describe(log: Any, *, model: str | None, provider: str, user: Any, params: dict[str, Any]) -> None:
    """Record in *log* which call it is for; *params* are the caller's arguments to LiteLLM itself."""
    log.update_environment_variables(
        model=model, user=user, optional_params={}, litellm_params=params, custom_llm_provider=provider
    )


def tell_of_hit(log: Any, answer: Any, began: datetime, ended: datetime) -> None:
    """Report *answer* to the callbacks of *log* as a cache hit."""
    log.success_handler(answer, began, ended, cache_hit=True)


async def atell_of_hit(log: Any, answer: Any, began: datetime, ended: datetime) -> None:
    """The same, for an async call."""
    await log.dispatch_success_handlers(answer, began, ended, cache_hit=True, prefer_async_handlers=True)


def log_later(event: Coroutine[Any, Any, None]) -> None:
    """Deliver an *event* where LiteLLM delivers those of async calls."""
    GLOBAL_LOGGING_WORKER.ensure_initialized_and_enqueue(event)


def log_in_thread(event: Callable[..., None], *args: Any) -> None:
    """Deliver an *event* where LiteLLM delivers those of sync calls."""
    executor.submit(event, *args)


# -- the proxy ------------------------------------------------------------------------------------------------------

_KEY = "user_api_key_hash"

PROXY_USER = ("user_api_key_end_user_id", "user_api_key_user_id", _KEY)
PROXY_TENANT = ("user_api_key_team_id", "user_api_key_org_id")
"""The metadata keys where a proxy records who makes a call; the first one set counts."""

_SERVER = "litellm.proxy.proxy_server"


def came_through_proxy(metadata: Mapping[str, Any]) -> bool:
    """Whether a proxy wrote *metadata*: it strips the names it uses from what clients send."""
    return _KEY in metadata


def asks_after_health(arguments: Mapping[str, Any]) -> bool:
    """Whether this call is a proxy's health check of a deployment."""
    metadata = arguments.get("litellm_metadata") or {}
    return bool(metadata.get(_KEY) == HEALTH_CHECK)


def at_proxy_shutdown(close: Callable[[], Awaitable[None]]) -> None:
    """Have *close* awaited when the proxy in this process stops serving; without a proxy, never."""
    server: Any = sys.modules.get(_SERVER)
    if server is None:
        return
    shut_down = server.proxy_shutdown_event

    @wraps(shut_down)
    async def closed(*args: Any, **kwargs: Any) -> None:
        try:
            await close()
        finally:
            await shut_down(*args, **kwargs)

    server.proxy_shutdown_event = closed
