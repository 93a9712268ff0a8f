"""One structured record for each request, and a warning when a target fails or a circuit or limit changes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llmkit_plugins.call import Attempt, Call
from llmkit_plugins.events import CircuitChanged, CircuitsExhausted, LimitReached
from llmkit_plugins.plugins.observability.genai import error_type
from llmkit_plugins.plugins.observability.instruments import Bounded
from llmkit_plugins.plugins.observability.text import writable

request_log = logging.getLogger("llmkit.request")
"""One record at INFO for each request, with its data in ``record.llmkit``."""

state_log = logging.getLogger("llmkit.state")
"""Failing targets, circuits and limits, at WARNING."""

_QUIET_SECONDS = 60.0
"""Repeated events are logged once in this time."""

_ASKED_WRONGLY = {"bad_request", "context_length", "content_filter"}
"""Kinds of errors caused by the request rather than the target."""


def log_request(call: Call, facts: Mapping[str, Any]) -> None:
    """Log that *call* ended; *facts* never contain its prompt or answer."""
    request_log.info("%s %s: %s", call.operation, facts["model"] or "any model", call.outcome, extra={"llmkit": facts})


class StateLog:
    """Logs the state of targets, circuits and limits: at the first event, then once a minute while it goes on.

    It tells at most *max_known* of each kind apart.
    """

    def __init__(self, max_known: int) -> None:
        self._limits, self._failures = Bounded(max_known), Bounded(max_known)
        self._quiet_until: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def failed(self, attempt: Attempt, now: float) -> None:
        """A target failed, and not because of the request."""
        if attempt.kind in _ASKED_WRONGLY:
            return
        target, why = self._failures.admit(attempt.target.name, error_type(attempt.kind, attempt.error))
        if (before := self._speaks(f"failure {target} {why}", now)) is not None:
            facts = {"target": target, "error_type": why, "times_before": before}
            state_log.warning("target %s fails: %s", target, why, extra={"llmkit": facts})

    def circuit(self, event: CircuitChanged) -> None:
        """A circuit changed."""
        facts = {"target": event.target, "before": event.before, "after": event.after, "why": event.why}
        state_log.warning("circuit of %s: %s (%s)", event.target, event.after, event.why, extra={"llmkit": facts})

    def exhausted(self, event: CircuitsExhausted, now: float) -> None:
        """Too few circuits are closed."""
        if (before := self._speaks("circuits", now)) is not None:
            facts = {"targets": event.targets, "times_before": before}
            state_log.warning(
                "too few circuits are closed, used all the same: %s", ", ".join(event.targets), extra={"llmkit": facts}
            )

    def limit(self, event: LimitReached, now: float) -> None:
        """A limit was reached."""
        (limit,) = self._limits.admit(event.limit)
        if (before := self._speaks(f"limit {limit}", now)) is not None:
            facts = {"limit": limit, "action": event.action, "times_before": before}
            state_log.warning("limit %r is used up: %s", limit, event.action, extra={"llmkit": facts})

    def _speaks(self, what: str, now: float) -> int | None:
        """How often *what* happened without being logged; None if it is not to be logged this time either."""
        if now < self._quiet_until.get(what, float("-inf")):
            self._unsaid[what] = self._unsaid.get(what, 0) + 1
            return None
        self._quiet_until[what] = now + _QUIET_SECONDS
        return self._unsaid.pop(what, 0)


class JSONFormatter(logging.Formatter):
    """Formats a record as one line of JSON that includes llmkit's data: ``handler.setFormatter(JSONFormatter())``."""

    def format(self, record: logging.LogRecord) -> str:
        """*record* in JSON."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        told.update(getattr(record, "llmkit", {}))
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return writable(json.dumps(told, ensure_ascii=False, default=str))
