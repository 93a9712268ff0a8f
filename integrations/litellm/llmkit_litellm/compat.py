"""Everything of LiteLLM that is private or differs between its versions: what an upgrade can break, it breaks here.

``tests/integrations/litellm/test_compat.py`` has a test for each assumption.
"""
# ruff: noqa: SLF001 - private names are what this is about

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from datetime import datetime
from typing import Any, TypeVar

from litellm.exceptions import MidStreamFallbackError
from litellm.litellm_core_utils.litellm_logging import Logging
from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper
from litellm.router_strategy.simple_shuffle import simple_shuffle
from litellm.types.router import RouterRateLimitError, RouterRateLimitErrorBasic
from pydantic import BaseModel

__all__ = [
    "STRATEGY",
    "CustomStreamWrapper",
    "Deployment",
    "MidStreamFallbackError",
    "RouterRateLimitError",
    "RouterRateLimitErrorBasic",
    "aclose_stream",
    "apart",
    "apick",
    "close_stream",
    "closing",
    "copied",
    "core",
    "hidden",
    "is_cached",
    "made_up_the_end",
    "pick",
    "resemble",
    "response_headers",
    "selects",
    "unsent_stream",
]

Deployment = Mapping[str, Any]
T = TypeVar("T")

STRATEGY = "latency-based-routing"
"""The strategy whose selector is told everything, sync and async: what a Router is told it has while we select."""

_SHUFFLE_TAKES_REQUEST = "request_kwargs" in inspect.signature(simple_shuffle).parameters
_PREFIX = "llm_provider-"


def core(router: Any) -> Any:
    """The object that routes: since 1.109 a ``Router`` is a facade, and its methods run on another object."""
    return getattr(router, "_core", router)


def selects(request_kwargs: Mapping[str, Any] | None) -> bool:
    """Whether a Router asks for its strategy in order to select; it also asks to decide about a weighted failover."""
    return "original_function" not in (request_kwargs or {})


def pick(
    router: Any, strategy: str | None, selector: Any, model: str, deployments: Sequence[Deployment], request: Any
) -> Any:
    """The deployment that LiteLLM's own *strategy* would take; None: none of them."""
    if strategy == "simple-shuffle":
        return _shuffle(router, model, deployments, request["request_kwargs"])
    return router._select_deployment_sync(
        strategy=strategy, selector=selector, model=model, healthy_deployments=deployments, **request
    )


async def apick(
    router: Any, strategy: str | None, selector: Any, model: str, deployments: Sequence[Deployment], request: Any
) -> Any:
    """The same, for strategies that await."""
    if strategy == "simple-shuffle":
        return _shuffle(router, model, deployments, request["request_kwargs"])
    return await router._select_deployment_async(
        strategy=strategy, selector=selector, model=model, healthy_deployments=deployments, **request
    )


def _shuffle(router: Any, model: str, deployments: Sequence[Deployment], request_kwargs: Any) -> Any:
    shuffle: Callable[..., Any] = simple_shuffle
    if not _SHUFFLE_TAKES_REQUEST:  # before 1.103
        return shuffle(llm_router_instance=router, healthy_deployments=deployments, model=model)
    alias = getattr(router, "_core_get_model_from_alias", None) or router.get_model_from_alias
    return shuffle(
        resolve_model_alias=alias, healthy_deployments=deployments, model=model, request_kwargs=request_kwargs
    )


def apart(function: Callable[..., T], *args: Any) -> T:
    """Call *function* where no event loop runs. From within one (a notebook), LiteLLM's sync Router continues in a
    thread that has lost the context variables; so go to one that has not."""
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
    """Close the connection."""
    await stream.aclose()


def close_stream(stream: Any) -> None:
    """Close the connection: a ``CustomStreamWrapper`` itself only has ``aclose``."""
    for closable in (stream, getattr(stream, "completion_stream", None)):
        closes = getattr(closable, "close", None)
        if closes is not None and not inspect.iscoroutinefunction(closes):
            closes()
            return


@contextmanager
def closing(stream: Any) -> Iterator[None]:
    """Close *stream* in the end."""
    try:
        yield
    finally:
        close_stream(stream)


def resemble(stream: CustomStreamWrapper, original: CustomStreamWrapper, source: Any) -> None:
    """Make *stream*, which reads from *source*, look like *original*: its attributes, since making one anew costs
    0.5 ms."""
    vars(stream).update(vars(original))
    stream.completion_stream = source
    stream._hidden_params = _own(hidden(original))


def unsent_stream(call_id: str, model: str | None, messages: Any) -> CustomStreamWrapper:
    """A stream that no provider is behind."""
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


def is_cached(stream: CustomStreamWrapper) -> bool:
    """Whether *stream* replays an answer from LiteLLM's cache."""
    return bool(stream.custom_llm_provider == "cached_response")


def made_up_the_end(stream: CustomStreamWrapper) -> bool:
    """Whether the last chunk's finish reason is LiteLLM's own, since the provider broke off without one."""
    return (
        stream.sent_last_chunk and stream.received_finish_reason is None and stream.intermittent_finish_reason is None
    )


# -- answers --------------------------------------------------------------------------------------------------------


def hidden(answer: Any) -> Mapping[str, Any]:
    """What LiteLLM knows of *answer* besides what the provider said."""
    known: Mapping[str, Any] = getattr(answer, "_hidden_params", None) or {}
    return known


def response_headers(answer: Any) -> dict[str, str]:
    """The provider's response headers, lower-case."""
    prefixed = hidden(answer).get("additional_headers") or {}
    return {
        str(name).lower().removeprefix(_PREFIX): str(value)
        for name, value in prefixed.items()
        if str(name).lower().startswith(_PREFIX)
    }


def copied(answer: Any) -> Any:
    """An answer or chunk of one's own: LiteLLM and its proxy write into them."""
    if not isinstance(answer, BaseModel):
        return answer
    own: Any = answer.model_copy(deep=True)
    known = hidden(answer)
    if known:
        own._hidden_params = _own(known)
    return own


def _own(known: Mapping[str, Any]) -> dict[str, Any]:
    return {**known, "additional_headers": dict(known.get("additional_headers") or {})}
