"""What an exception from a provider's client means: its kind, and how long to stay away.

Works on the attributes that LLM clients share (``status_code``, ``code``, ``body``,
``response.headers``), so that no client has to be imported. The kinds and what may be done about them are in
:mod:`llmkit_plugins.errors`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any, get_args

from llmkit_plugins.errors import ErrorKind
from llmkit_plugins.header_times import UNIX_TIME, duration, unix_seconds

_BY_STATUS: dict[int, ErrorKind] = {
    400: "bad_request",
    401: "auth",
    402: "auth",
    403: "auth",
    404: "not_found",
    408: "timeout",
    409: "server",
    410: "not_found",
    413: "context_length",
    422: "bad_request",
    425: "overloaded",
    429: "rate_limit",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}
_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)
_CONTEXT_LENGTH = re.compile(
    r"context.?length|context.?window|maximum context|too many tokens|prompt is too long", re.I
)
_CONTENT_FILTER = re.compile(r"content.?filter|content.?policy|responsible.?ai", re.I)
_RESET = re.compile(r"(x-)?ratelimit-reset|anthropic-ratelimit-.*-reset$")


def kind_of(error: BaseException) -> ErrorKind | None:
    """The kind of a provider's *error*: its own ``kind``, else by its status, else by its base classes. None:
    unknown."""
    kind: ErrorKind | None = getattr(error, "kind", None)
    if kind in _KINDS:
        return kind
    status = status_of(error)
    if status is not None:
        return _kind_of_status(status, error)
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, TimeoutError) or names & {"APITimeoutError", "TimeoutException", "Timeout"}:
        return "timeout"
    if isinstance(error, ConnectionError) or names & {"APIConnectionError", "TransportError", "ClientConnectionError"}:
        return "connection"
    return None


def status_of(error: BaseException) -> int | None:
    """The HTTP status of *error* or its response."""
    for holder in (error, getattr(error, "response", None)):
        status = getattr(holder, "status_code", None)
        if status is not None:
            with suppress(TypeError, ValueError):
                return int(status)
    return None


def _kind_of_status(status: int, error: BaseException) -> ErrorKind | None:
    if status in (400, 413, 422):
        text = f"{getattr(error, 'code', '')} {error}"
        if _CONTEXT_LENGTH.search(text):
            return "context_length"
        if _CONTENT_FILTER.search(text):
            return "content_filter"
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return "server" if status >= 500 else "bad_request" if status >= 400 else None


def retry_after_of(error: BaseException) -> float | None:
    """Seconds that *error* asks to stay away: its own ``retry_after``, else by the headers of its response."""
    own = getattr(error, "retry_after", None)
    if isinstance(own, int | float) and isfinite(own):
        return max(0.0, float(own))
    for holder in (getattr(error, "response", None), error):
        for name in ("headers", "litellm_response_headers"):
            headers = getattr(holder, name, None)
            if headers is not None:
                with suppress(TypeError, ValueError, AttributeError):
                    seconds = retry_after(headers)
                    if seconds is not None:
                        return seconds
    return None


def retry_after(headers: Mapping[str, Any], wall_clock: float | None = None) -> float | None:
    """Seconds to stay away, by all the usual headers: ``retry-after`` (seconds or a date), ``retry-after-ms`` and the
    ``ratelimit-reset`` family of exhausted limits; if there are several, the longest. *wall_clock* is the Unix time
    that dates count from.
    """
    lower = {str(name).lower().removeprefix("llm_provider-"): str(value).strip() for name, value in headers.items()}
    now = time.time() if wall_clock is None else wall_clock
    said = [_seconds(lower["retry-after"], now)] if "retry-after" in lower else []
    if "retry-after-ms" in lower:
        said.append(_number(lower["retry-after-ms"], 0.001))
    for name, value in lower.items():
        if _RESET.match(name) and _number(lower.get(name.replace("-reset", "-remaining"), "0"), 1.0) == 0.0:
            said.append(_seconds(value, now))
    waits = [seconds for seconds in said if seconds is not None]
    return max(0.0, *waits) if waits else None


def _seconds(value: str, now: float) -> float | None:
    """A number of seconds, a duration such as ``6m0s``, a Unix time (in seconds or milliseconds), or a date."""
    seconds = _number(value, 1.0)
    if seconds is not None:
        return seconds if seconds < UNIX_TIME else unix_seconds(seconds) - now
    seconds = duration(value)
    return _date(value, now) if seconds is None else seconds


def _number(value: str, unit: float) -> float | None:
    with suppress(ValueError):
        number = float(value) * unit
        return number if isfinite(number) else None
    return None


def _date(value: str, now: float) -> float | None:
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        with suppress(ValueError, TypeError):
            moment = parse(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    return None
