"""Maps LiteLLM's exceptions to kinds of provider errors, and our errors to exceptions LiteLLM's users already catch."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, cast

from litellm.exceptions import (
    APIConnectionError,
    APIError,
    BudgetExceededError,
    ContentPolicyViolationError,
    ContextWindowExceededError,
    InternalServerError,
    RateLimitError,
    ServiceUnavailableError,
    Timeout,
)

from llmkit_litellm.compat import MidStreamFallbackError, RouterRateLimitError, RouterRateLimitErrorBasic
from llmkit_plugins import provider_errors
from llmkit_plugins.errors import (
    EmptyAnswer,
    ErrorKind,
    ForeignCancel,
    LLMKitError,
    NoTarget,
    RateLimited,
    Refused,
    TimedOut,
    UpstreamLost,
)

_KINDS: tuple[tuple[type[Exception], ErrorKind | None], ...] = (
    (ContextWindowExceededError, "context_length"),
    (ContentPolicyViolationError, "content_filter"),
    (APIConnectionError, "connection"),  # its status is 500
    (RouterRateLimitError, "rate_limit"),
    (RouterRateLimitErrorBasic, "rate_limit"),
    (BudgetExceededError, None),  # LiteLLM's own limit, whatever its status
)

_BUGS = (AttributeError, LookupError, TypeError)

_LITELLM: tuple[tuple[type[LLMKitError], type[Exception]], ...] = (
    (RateLimited, RateLimitError),
    (TimedOut, Timeout),
    (EmptyAnswer, InternalServerError),
    (ForeignCancel, APIConnectionError),
    (UpstreamLost, APIConnectionError),
)


def kind_of(error: BaseException) -> ErrorKind | None:
    """The kind of provider error that *error* is, or None.

    If a request is so malformed that LiteLLM trips over it, LiteLLM reports a connection error (and so does not cool
    down for it either); only the caller is to blame.
    """
    error = original(error)
    if isinstance(error, APIConnectionError) and isinstance(error.__cause__ or error.__context__, _BUGS):
        return None
    for cls, kind in _KINDS:
        if isinstance(error, cls):
            return kind
    if isinstance(error, APIError) and (provider_errors.status_of(error) or 500) < 400:
        return "server"  # it answered 200 with an unreadable body
    kind = provider_errors.kind_of(error)
    below = _below(error) if kind == "server" else None
    underneath = None if below is None else provider_errors.kind_of(below)
    return underneath if underneath in ("connection", "timeout") else kind


def _below(error: BaseException) -> BaseException | None:
    """The error behind *error*: LiteLLM reports 500 even if there was no connection."""
    below: BaseException | None = error
    while below is not None and type(below).__module__.startswith("litellm."):
        below = below.__cause__ or below.__context__
    return below


def retry_after_of(error: BaseException) -> float | None:
    """How many seconds *error* asks to wait."""
    error = original(error)
    if isinstance(error, RouterRateLimitError):
        return float(error.cooldown_time)
    return provider_errors.retry_after_of(error)


def original(error: BaseException) -> BaseException:
    """What the provider's client raised: LiteLLM wraps errors that occur mid-stream."""
    inner = error.original_exception if isinstance(error, MidStreamFallbackError) else None
    return error if inner is None else inner


def as_litellm(error: LLMKitError, model: str | None) -> Exception:
    """*error* as an instance of both its own class and LiteLLM's equivalent, carrying ``retry-after``.

    An exhausted limit is a ``litellm.RateLimitError``, any other refusal a ``litellm.ServiceUnavailableError``: a
    Router does not retry these, but falls back to other model groups as for any error of that class.
    """
    base = _base_of(error)
    if base is None:
        return error
    ours: Any = type(error)
    both: Any = _both(ours, base)
    raised = both.__new__(both, *error.args)
    base.__init__(raised, message=str(error), llm_provider="", model=model or "")
    raised.num_retries = 0 if isinstance(error, Refused) else None
    vars(raised).update(vars(error))
    raised.args = error.args
    _tell_retry_after(raised, getattr(error, "retry_after", None))
    return cast("Exception", raised)


def _base_of(error: LLMKitError) -> Any:
    if isinstance(error, RateLimitError | ServiceUnavailableError | Timeout | InternalServerError | APIConnectionError):
        return None
    if isinstance(error, NoTarget) and error.reasons:
        spent = all(isinstance(reason, RateLimited) for reason in error.reasons.values())
        return RateLimitError if spent else ServiceUnavailableError
    return next((theirs for ours, theirs in _LITELLM if isinstance(error, ours)), ServiceUnavailableError)


@cache
def _both(ours: type[LLMKitError], theirs: type[Exception]) -> type[Exception]:
    return type(ours.__name__, (ours, theirs), {"__module__": ours.__module__, "__doc__": ours.__doc__})


def _tell_retry_after(error: Any, seconds: float | None) -> None:
    """LiteLLM reads whole seconds only, and its proxy forwards ``headers``; never share them between errors. Code
    written for OpenAI's errors reads those of the ``response``."""
    error.headers = {} if seconds is None else {"retry-after": str(max(1, math.ceil(seconds)))}
    error.litellm_response_headers = dict(error.headers)
    if (response := getattr(error, "response", None)) is not None:
        response.headers.update(error.headers)
