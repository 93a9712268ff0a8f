"""What response headers say of a provider's own limits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple

from llmkit_plugins.header_times import UNIX_TIME, duration, unix_seconds


class _Names(NamedTuple):
    """What the headers that speak of one meter are called."""

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
"""Of a second's responses all have the same."""

_METERS = [(meter, _ways(meter)) for meter in ("requests", "tokens")]


class Said(NamedTuple):
    """What is left of one thing that a provider counts."""

    meter: str
    """``requests`` or ``tokens``."""
    left: float
    limit: float | None
    """How much there is when nothing was used; None: not said."""
    reset: float
    """Seconds until it is so again."""


def said_of(headers: Mapping[str, str]) -> list[Said]:
    """What *headers*, their names in lower case, say in the ways of OpenAI and Anthropic, handed on by LiteLLM or
    not."""
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
    """A number of seconds, a duration such as ``6m0s``, or a moment, which counts from the *date* of the response; None
    where it is none of them, or decades away."""
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
