"""What goes wrong, and when: a fault, and the schedule that assigns faults to requests."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from random import Random
from typing import Literal, get_args

from llmkit_plugins.errors import ConfigError
from llmkit_plugins.testing.fake_provider.api_error import ApiError, limit_headers, retry_headers
from llmkit_plugins.testing.fake_provider.checks import not_negative, one_of, whole

FaultKind = Literal[
    "rate_limit",
    "server_error",
    "overloaded",
    "bad_request",
    "auth",
    "not_found",
    "context_length",
    "content_filter",
    "timeout",
    "stall",
    "disconnect",
    "malformed",
    "empty",
]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: int
    message: str
    type: str | None = "invalid_request_error"
    param: str | None = None
    code: str | None = None


_REFUSALS: Mapping[str, _Refusal] = {
    "rate_limit": _Refusal(
        429, "Rate limit reached on requests per min (RPM).", "requests", code="rate_limit_exceeded"
    ),
    "server_error": _Refusal(500, "The server had an error while processing your request.", "server_error"),
    "overloaded": _Refusal(503, "The engine is currently overloaded.", "server_error"),
    "bad_request": _Refusal(400, "The request is not valid."),
    "auth": _Refusal(401, "Incorrect API key provided.", code="invalid_api_key"),
    "not_found": _Refusal(404, "The model does not exist or you do not have access to it.", code="model_not_found"),
    "context_length": _Refusal(
        400,
        "This model's maximum context length is 8192 tokens. However, your messages resulted in more. "
        "Please reduce the length of the messages.",
        param="messages",
        code="context_length_exceeded",
    ),
    "content_filter": _Refusal(
        400, "The prompt triggered the content management policy.", None, "prompt", "content_filter"
    ),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One way of failing, and which requests it hits: those numbered in *on* (from 1, since the faults were set; None:
    all), each with *probability*.

    ``rate_limit`` (429), ``server_error`` (500), ``overloaded`` (503), ``bad_request``, ``context_length``,
    ``content_filter`` (400), ``auth`` (401) and ``not_found`` (404) answer at once with that status and OpenAI's error
    body. ``timeout`` never answers, ``stall`` goes silent, ``disconnect`` cuts the connection, ``malformed`` sends JSON
    that breaks off, ``empty`` ends the answer that has not begun. Raises ``ConfigError`` for what does not go together.
    """

    kind: FaultKind
    _: KW_ONLY
    on: Container[int] | None = None
    """The requests it hits: ``[1, 2]``, ``range(10, 20)``; None: every one."""
    probability: float = 1.0
    """How likely it is to hit each of those."""
    status: int | None = None
    """An HTTP status other than the kind's own: 502, 504, 529 …"""
    retry_after: float | None = None
    """Seconds to stay away, told in ``retry-after``, ``retry-after-ms`` and, with 429, ``x-ratelimit-*``; None: not
    told."""
    after_chunks: int | None = None
    """How many chunks of a stream (SSE events; a chat's first one only names the role) are sent before it hits. None:
    ``disconnect`` and errors hit before the response begins, the others right after its headers. An answer that is not
    streamed fails at once."""

    def __post_init__(self) -> None:
        one_of("kind", self.kind, KINDS)
        if self.on is not None and not isinstance(self.on, Container):
            raise ConfigError(f"{self.on!r} does not hold numbers", key="on", right="[1, 2] or range(1, 3)")
        not_negative("probability", self.probability)
        if self.probability > 1:
            raise ConfigError(f"{self.probability} is more than certain", key="probability", right="0 to 1")
        self._check_refusal()
        if self.after_chunks is not None:
            whole("after_chunks", self.after_chunks, 0)
            if self.kind == "timeout":
                raise ConfigError("a timeout never sends a chunk", key="after_chunks", right="the kind 'stall'")

    def _check_refusal(self) -> None:
        for key, value in (("status", self.status), ("retry_after", self.retry_after)):
            if value is not None and self.kind not in _REFUSALS:
                raise ConfigError(f"{self.kind!r} has no error response", key=key, right=", ".join(_REFUSALS))
        if self.status is not None and not 400 <= self.status <= 599:
            raise ConfigError(f"{self.status} is not an error", key="status", right="400 to 599")
        if self.retry_after is not None:
            not_negative("retry_after", self.retry_after)

    def hits(self, number: int, random: Random) -> bool:
        """Whether it hits the request with that *number*."""
        return (self.on is None or number in self.on) and (self.probability == 1 or random.random() < self.probability)

    @property
    def error(self) -> ApiError | None:
        """The error to answer with; None if it fails in another way."""
        refusal = _REFUSALS.get(self.kind)
        if refusal is None:
            return None
        status = self.status or refusal.status
        headers = {} if self.retry_after is None else retry_headers(self.retry_after)
        if self.retry_after is not None and status == 429:
            headers |= limit_headers("requests", 0, self.retry_after)
        return ApiError(
            status, refusal.message, type=refusal.type, param=refusal.param, code=refusal.code, headers=headers
        )


class Schedule:
    """Assigns faults to requests, which it numbers from 1: the first of *faults* that hits."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = tuple(faults)
        self._number = 0

    def next(self, random: Random) -> Fault | None:
        """The fault of the next request; None: it succeeds."""
        self._number += 1
        return next((fault for fault in self._faults if fault.hits(self._number, random)), None)
