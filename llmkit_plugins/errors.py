"""What is raised, with the data a program needs to react."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

ErrorKind = Literal[
    "rate_limit",
    "overloaded",
    "timeout",
    "connection",
    "server",
    "auth",
    "not_found",
    "bad_request",
    "context_length",
    "content_filter",
    "cancelled",
]

HEALTH_KINDS: frozenset[str] = frozenset({"overloaded", "timeout", "connection", "server"})
"""The kinds that speak of the provider's health; ``rate_limit`` speaks of its capacity, ``auth`` and
``not_found`` of how the target is set up, the rest of the caller."""

FAILOVER_KINDS: frozenset[str] = HEALTH_KINDS | {"rate_limit", "auth", "not_found", "context_length"}
"""The kinds another target may not have: the next one is tried, as long as nothing has been handed over."""


class LLMKitError(Exception):
    """The base of every error this package raises."""


class ConfigError(LLMKitError, ValueError):
    """A setting is wrong. *file* and *key* say where, *right* says what would be right; each may be None."""

    def __init__(self, what: str, file: str | None = None, key: str | None = None, right: str | None = None) -> None:
        super().__init__(what, file, key, right)
        self.what, self.file, self.key, self.right = what, file, key, right

    def __str__(self) -> str:
        where = "".join(f"{part}: " for part in (self.file, self.key) if part)
        return f"{where}{self.what}" + (f" ({self.right})" if self.right else "")


class Refused(LLMKitError):
    """A plugin refused the call, or one target. It may be retried in *retry_after* seconds, or None if unknown."""

    def __init__(self, why: str = "refused", retry_after: float | None = None) -> None:
        super().__init__(why, retry_after)
        self.why, self.retry_after = why, retry_after

    def __str__(self) -> str:
        return self.why


class RateLimited(Refused):
    """The limit called *limit* is exhausted for *key*; it admits this call in *retry_after* seconds (None: never)."""

    def __init__(self, limit: str, key: str = "", retry_after: float | None = None) -> None:
        of = f" for {key}" if key else ""
        when = "it can never admit this call" if retry_after is None else f"try again in {retry_after:.3g} s"
        super().__init__(f"rate limit {limit!r}{of} is used up; {when}", retry_after)
        self.args = (limit, key, retry_after)
        self.limit, self.key = limit, key


class CircuitOpen(Refused):
    """The circuit of *target* is open; it admits a probe in *retry_after* seconds."""

    def __init__(self, target: str, retry_after: float | None = None) -> None:
        super().__init__(f"the circuit of {target!r} is open", retry_after)
        self.args = (target, retry_after)
        self.target = target


class NoTarget(Refused):
    """No target is left. *reasons* says for each target which plugin dropped it and why, or which refusal it met."""

    def __init__(self, reasons: Mapping[str, str | Refused]) -> None:
        self.reasons = dict(reasons)
        waits = [r.retry_after for r in self.reasons.values() if isinstance(r, Refused) and r.retry_after is not None]
        told = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        super().__init__(f"no target left: {told or 'there was none to begin with'}", min(waits, default=None))
        self.args = (self.reasons,)


class PluginFailed(Refused):
    """A plugin marked ``critical`` had a bug (the cause), so the call is refused rather than let through unguarded."""

    def __init__(self, who: str) -> None:
        super().__init__(f"{who} failed and is marked critical")
        self.args = (who,)
        self.who = who


class ProviderFailure(LLMKitError):
    """The provider failed in a way the engine itself detected; *kind* says which."""

    kind: ClassVar[ErrorKind] = "server"


class EmptyAnswer(ProviderFailure):
    """A stream ended without any content, or a whole answer was empty."""


class TimedOut(ProviderFailure, TimeoutError):
    """There was no answer, or no next chunk, within the attempt's timeout or before the call's deadline."""

    kind = "timeout"


class ForeignCancel(ProviderFailure):
    """The awaited operation was cancelled, but not by the caller."""

    kind = "connection"


class UpstreamLost(LLMKitError):
    """The upstream this call shared was stopped half-way by someone else. The same call may be retried immediately."""
