"""The error a provider answers with: a status and OpenAI's body."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """Raised while answering, and sent as the response: an HTTP status, headers, and OpenAI's ``error`` object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = "invalid_request_error",  # noqa: A002 - the field's name on the wire
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body: dict[str, Any] = {"error": {"message": message, "type": type, "param": param, "code": code}}


def retry_headers(seconds: float) -> dict[str, str]:
    """Headers that ask to stay away for *seconds*: ``retry-after`` in whole seconds, rounded up, and
    ``retry-after-ms``."""
    return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}


def limit_headers(name: str, left: int, reset_seconds: float, limit: int | None = None) -> dict[str, str]:
    """The ``x-ratelimit-*`` headers of the limit called *name* (``requests`` or ``tokens``)."""
    headers = {f"x-ratelimit-remaining-{name}": str(left), f"x-ratelimit-reset-{name}": duration(reset_seconds)}
    return headers if limit is None else {f"x-ratelimit-limit-{name}": str(limit), **headers}


def duration(seconds: float) -> str:
    """*seconds* in OpenAI's format, to the millisecond: ``12ms``, ``1.5s``, ``6m0s``, ``1h0m5s``."""
    if 0 < seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, 60)
    hours, minutes = divmod(int(minutes), 60)
    told = f"{round(rest, 3):g}s"
    return f"{hours}h{minutes}m{told}" if hours else f"{minutes}m{told}" if minutes else told
