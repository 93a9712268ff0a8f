"""A provider's own limits, as its response headers report them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple

from llmkit_plugins.header_times import UNIX_TIME, duration, unix_seconds


class _Names(NamedTuple):
    """The names of the headers for one meter."""

    left: str
    limit: str
    reset: str


def _ways(meter: str) -> list[_Names]:
    forms = [f"x-ratelimit-%s-{meter}", f"anthropic-ratelimit-{meter}-%s"]
    return [
        _Names(*[prefix + form % what for what in ("remaining", "limit", "reset")])
        for prefix in ("", "llm_provider-")
        for form in forms
    ]


_date = lru_cache(maxsize=64)(parsedate_to_datetime)
"""Cached: all responses of the same second have the same date."""

_METERS = [(meter, _ways(meter)) for meter in ("requests", "tokens")]


class Said(NamedTuple):
    """What is left of one of the things that a provider counts."""

    meter: str
    """``requests`` or ``tokens``."""
    left: float
    limit: float | None
    """How much there is when nothing has been used; None: not reported."""
    reset: float
    """Seconds until it is full again."""


def said_of(headers: Mapping[str, str]) -> list[Said]:
    """What *headers* (names in lower case) report, in the formats of OpenAI and Anthropic, with or without LiteLLM's
    prefix."""
    said = []
    for meter, ways in _METERS:
        for names in ways:
            if names.left in headers and (heard := _read(headers, names, meter)) is not None:
                said.append(heard)
                break
    return said


def _read(headers: Mapping[str, str], names: _Names, meter: str) -> Said | None:
    left, limit, reset = _number(headers[names.left]), headers.get(names.limit), headers.get(names.reset)
    seconds = _seconds(reset, headers.get("date"))
    return None if left is None or seconds is None else Said(meter, left, _number(limit) or None, seconds)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None


def _seconds(text: str | None, date: str | None) -> float | None:
    """Seconds from a number, a duration such as ``6m0s``, or a point in time, relative to the *date* of the response;
    None if *text* is none of these or is decades away."""
    if text is None:
        return None
    if (seconds := duration(text)) is not None:
        return seconds if seconds < UNIX_TIME else None
    number = _number(text)
    if number is not None and number < UNIX_TIME:
        return number
    try:
        moment = datetime.fromisoformat(text) if number is None else datetime.fromtimestamp(unix_seconds(number), UTC)
        seconds = (moment - _date(date or "")).total_seconds()
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return max(0.0, seconds) if seconds < UNIX_TIME else None
