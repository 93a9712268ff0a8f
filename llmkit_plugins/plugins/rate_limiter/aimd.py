"""How fast to send to a provider that refuses requests without reporting its limits."""

from __future__ import annotations

from llmkit_plugins.plugins.rate_limiter.rate import FULL

DECREASE = 0.5
"""The factor by which a refusal reduces the pace."""
RECOVERY_SECONDS = 60.0
"""How long the pace takes to increase by its value before the refusal."""
MIN_PACE = 0.5
"""The slowest pace in requests a second, however often the provider refuses."""


class Pace:
    """Requests a second, by additive increase and multiplicative decrease (Chiu and Jain 1989).

    Unlimited until the provider refuses. The pace is then half the sending rate before the refusal, grows by that rate
    per minute, and is lifted at twice that rate. Refusals of requests sent before the last decrease are ignored.

    The first caller refused, or one told when to come back, may retry regardless: its client does so anyway, and if
    held here it would lose a retry that the provider answers. If refused again, it keeps the pace like the others.
    """

    __slots__ = ("_ceiling", "_full_at", "_pace", "_since", "_slope")

    def __init__(self) -> None:
        self._pace: float | None = None
        self._since = self._slope = self._ceiling = 0.0
        self._full_at = FULL

    def now(self, now: float) -> float | None:
        """Requests a second; None: unlimited."""
        if self._pace is None:
            return None
        pace = self._pace + self._slope * (now - self._since)
        if pace >= self._ceiling:
            self._pace = None
            return None
        return pace

    def sent(self, now: float, count: float = 1.0) -> None:
        """Count a request as sent; a *count* of -1 takes it back."""
        pace = self.now(now)
        if pace is not None:
            self._full_at = max(self._full_at, now) + count / pace

    def refused(self, now: float, sent: float, sending: float, *, told: bool) -> None:
        """Slow down: the provider refused a request sent at time *sent*, at a rate of *sending* requests a second.

        *told*: the provider said when to come back.
        """
        pace = self.now(now)
        if pace is not None and sent < self._since:
            return
        before = max(sending if pace is None else pace, MIN_PACE / DECREASE)
        self._pace = before * DECREASE
        self._since, self._slope, self._ceiling = now, before / RECOVERY_SECONDS, 2 * before
        ahead = 1.0 if told or pace is None else 2.0
        self._full_at = now + ahead / self._pace

    def wait(self, now: float) -> float:
        """Seconds until another request keeps the pace, allowing one request ahead of it."""
        pace = self.now(now)
        return 0.0 if pace is None else max(0.0, self._full_at - now - 1.0 / pace)
