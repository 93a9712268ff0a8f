"""What response headers say of a provider's own limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NAMES = ("x-ratelimit-{what}-{meter}", "anthropic-ratelimit-{meter}-{what}")


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
    if not any("ratelimit" in name for name in headers):
        return []
    ways = [prefix + name for prefix in ("", "llm_provider-") for name in _NAMES]
    found = [_read(headers, way, meter) for meter in ("requests", "tokens") for way in ways]
    return [said for said in found if said is not None]


def _read(headers: Mapping[str, str], way: str, meter: str) -> Said | None:
    left, limit, reset = (headers.get(way.format(what=what, meter=meter)) for what in ("remaining", "limit", "reset"))
    number, seconds = _number(left), _seconds(reset, headers.get("date"))
    return None if number is None or seconds is None else Said(meter, number, _number(limit) or None, seconds)


def _number(text: str | None) -> float | None:
    with suppress(ValueError):
        return None if text is None else max(0.0, float(text))
    return None


def _seconds(text: str | None, date: str | None) -> float | None:
    """A number of seconds, a duration such as ``6m0s``, or a moment, which counts from the *date* of the response."""
    seconds = _number(text)
    if text is None or seconds is not None:
        return seconds
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
    with suppress(ValueError, TypeError):
        return max(0.0, (datetime.fromisoformat(text) - parsedate_to_datetime(date or "")).total_seconds())
    return None
