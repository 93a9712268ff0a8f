"""Errors that must not affect the call: logged once, then ignored."""

from __future__ import annotations

import logging
from functools import cache

log = logging.getLogger("llmkit")


@cache
def complain(what: str) -> None:
    """Log *what* with the current exception, the first time in this process."""
    log.exception(what)
