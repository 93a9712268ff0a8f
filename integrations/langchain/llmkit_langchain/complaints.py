"""What goes wrong where it must not matter to the call: said once, and passed over."""

from __future__ import annotations

import logging
from functools import cache

log = logging.getLogger("llmkit")


@cache
def complain(what: str) -> None:
    """Log *what* with the error at hand, the first time in this process."""
    log.exception(what)
