"""What response headers say of a provider's own limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATIONS = re.compile(rf"(?:{_DURATION.pattern})+")
_UNIX_TIME, _UNIX_MILLISECONDS = 1e9, 1e12
"""Numbers from here on are no durations, but moments."""
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


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
    if _DURATIONS.fullmatch(text):
        seconds = sum([float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION.findall(text)])
        return seconds if seconds < _UNIX_TIME else None
    number = _number(text)
    if number is not None and number < _UNIX_TIME:
        return number
    try:
        moment = datetime.fromisoformat(text) if number is None else _moment(number)
        seconds = (moment - _date(date or "")).total_seconds()
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return max(0.0, seconds) if seconds < _UNIX_TIME else None


def _moment(unix_time: float) -> datetime:
    return datetime.fromtimestamp(unix_time if unix_time < _UNIX_MILLISECONDS else unix_time / 1000, UTC)
