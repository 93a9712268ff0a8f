"""Times as providers write them in headers."""

from __future__ import annotations

import re
from math import isfinite

UNIX_TIME = 1e9
"""Numbers from here on are points in time, not durations."""

_MILLISECONDS = 1e12
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATIONS = re.compile(rf"(?:{_DURATION.pattern})+")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(text: str) -> float | None:
    """The seconds of ``12ms`` or ``6m0s``; None if *text* is not a duration or is too large for a float."""
    if not _DURATIONS.fullmatch(text):
        return None
    seconds = sum([float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION.findall(text)])
    return seconds if isfinite(seconds) else None


def unix_seconds(moment: float) -> float:
    """A *moment* given as Unix time in seconds or milliseconds, in seconds."""
    return moment if moment < _MILLISECONDS else moment / 1000
