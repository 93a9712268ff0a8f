"""What an error says about the health of the target that raised it."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from math import isfinite
from typing import get_args

from llmkit_plugins.errors import HEALTH_KINDS, ConfigError, ErrorKind, Refused

KINDS = frozenset(get_args(ErrorKind))
COUNTED = HEALTH_KINDS | {"rate_limit"}

IsFailure = Callable[[BaseException], bool]


def is_failure(error: BaseException) -> bool:
    """Whether an error without a kind counts as a failure: exceptions do; refusals, cancellation and Ctrl-C do not."""
    return isinstance(error, Exception) and not isinstance(error, Refused | concurrent.futures.CancelledError)


def kind_that_counts(error: BaseException | str, is_failure: IsFailure) -> str | None:
    """``rate_limit`` or the kind of health error that *error* is; None if it says nothing about the target.

    Its attribute ``kind`` decides if that is a known kind, else *is_failure*. Raises ``ConfigError`` for a string that
    is not a kind.
    """
    if isinstance(error, str):
        if error not in KINDS:
            raise ConfigError(f"{error!r} is no kind of error", key="error", right=f"one of {', '.join(sorted(KINDS))}")
        kind = error
    else:
        kind = getattr(error, "kind", "")
        if not isinstance(kind, str) or kind not in KINDS:
            kind = "cancelled" if not is_failure(error) else "timeout" if isinstance(error, TimeoutError) else "server"
    return kind if kind in COUNTED else None


def retry_after_of(error: BaseException | str) -> float | None:
    """How many seconds *error* asks to wait, by its attribute ``retry_after``, if any."""
    seconds = getattr(error, "retry_after", None)
    return float(seconds) if isinstance(seconds, int | float) and isfinite(seconds) and seconds > 0 else None
