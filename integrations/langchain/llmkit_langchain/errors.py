"""Errors in both directions: a kit's, as LangChain's users catch them, and the kinds of a chat model's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from json import JSONDecodeError
from typing import Any

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
)

from llmkit_plugins import LLMKitError, ProviderFailure, RateLimited, Refused, TimedOut, UpstreamLost
from llmkit_plugins.errors import ErrorKind
from llmkit_plugins.provider_errors import kind_of, status_of

_FAMILIES: tuple[tuple[type[LLMKitError], type[ModelError]], ...] = (
    (RateLimited, ModelRateLimitError),
    (Refused, ModelError),
    (TimedOut, ModelTimeoutError),
    (ProviderFailure, ModelAPIError),
    (UpstreamLost, ModelConnectionError),
)
"""The errors a call may end with, and LangChain's equivalent; the first match counts."""
_OURS = tuple(ours for ours, _ in _FAMILIES)

_KINDS: tuple[tuple[type[ModelError], ErrorKind], ...] = (
    (ModelRateLimitError, "rate_limit"),
    (ModelTimeoutError, "timeout"),
    (ModelConnectionError, "connection"),
    (ModelAPIError, "server"),
    (ModelAuthenticationError, "auth"),
    (ModelPermissionDeniedError, "auth"),
    (ModelNotFoundError, "not_found"),
    (ModelInvalidRequestError, "bad_request"),
)


class _AsModelErrors:
    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, _OURS):
            raise as_model_error(error) from error.__cause__


langchain_errors = _AsModelErrors()
"""For use with ``with``: raises a call's error as :func:`as_model_error` converts it."""


def as_model_error(error: LLMKitError) -> LLMKitError:
    """*error* as an instance of both its own class and a LangChain ``ModelError``, with its traceback.

    ``is_retryable`` says whether the same call may be made again; for a refusal, only if it says when.
    """
    if isinstance(error, ModelError):
        return error
    return _revive(type(error), error.args, error.__dict__).with_traceback(error.__traceback__)


def _revive(cls: Any, args: tuple[Any, ...], state: dict[str, Any]) -> LLMKitError:
    twin = _twin(cls)
    made: LLMKitError = twin.__new__(twin, *args)
    made.__dict__.update(state)
    return made


@cache
def _twin(cls: Any) -> Any:
    """A subclass of both *cls* and the closest ``ModelError``."""
    family = next((theirs for ours, theirs in _FAMILIES if issubclass(cls, ours)), ModelError)
    body: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        # not importable by its name, so pickled by its parts
        "__reduce__": lambda self: (_revive, (cls, self.args, self.__dict__)),
    }
    if issubclass(cls, Refused):
        body["is_retryable"] = property(lambda self: self.retry_after is not None)
    return type(cls.__name__, (cls, family), body)


def model_error_kind(error: BaseException) -> ErrorKind | None:
    """The kind of a chat model's error, by LangChain's own classes, else by the provider's client; None if none."""
    if isinstance(error, ContextOverflowError):  # its status is 400, and its text may not say why
        return "context_length"
    kind = kind_of(error)
    if kind is not None:
        return kind
    for family, kind in _KINDS:
        if isinstance(error, family):
            return kind
    if isinstance(error, ModelError):
        return "server" if error.is_retryable else "bad_request"
    return "server" if _unreadable(error) else _kind_told_in_answer(error)


class _InAnswer(Exception):
    """An error that came as the answer, with the status it states."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        super().__init__(told["message"])
        self.status_code = told.get("code")


def _kind_told_in_answer(error: BaseException) -> ErrorKind | None:
    """The kind of an error that a gateway sent with status 200: LangChain raises it as a ``ValueError``."""
    told = error.args[0] if isinstance(error, ValueError) and error.args else None
    if not isinstance(told, Mapping) or "message" not in told:
        return None
    return kind_of(_InAnswer(told)) or "server"


def _unreadable(error: BaseException) -> bool:
    """Whether the provider's answer is unusable: not JSON, or an error mid-stream."""
    status = status_of(error)
    in_stream = any(cls.__name__ == "APIError" for cls in type(error).__mro__)
    return isinstance(error, JSONDecodeError) or in_stream or (status is not None and 200 <= status < 300)
