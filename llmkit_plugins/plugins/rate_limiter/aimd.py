"""How fast to send to a provider that refuses without saying how fast it may be."""

from __future__ import annotations

from llmkit_plugins.plugins.rate_limiter.rate import FULL

DECREASE = 0.5
"""What a refusal leaves of the pace."""
RECOVERY_SECONDS = 60.0
"""How long the pace takes to gain what it was before the refusal."""
MIN_PACE = 0.5
"""Requests a second that remain, whatever a provider refuses."""


class Pace:
    """Requests a second, by additive increase and multiplicative decrease (Chiu and Jain 1989).

    Free until the provider refuses. Then half of what was being sent, growing by as much a minute as was sent before
    the refusal, and free again at twice that. Refusals of what was sent before the last decrease say nothing new.

    Whoever was refused first, or was told when to come back, may try again as if alone: his client does so by itself,
    and held here he would lose a retry that the provider answers. Who is refused again keeps the pace like the others.
    """

    __slots__ = ("_ceiling", "_full_at", "_pace", "_since", "_slope")

    def __init__(self) -> None:
        self._pace: float | None = None
        self._since = self._slope = self._ceiling = 0.0
        self._full_at = FULL

    def now(self, now: float) -> float | None:
        """Requests a second; None: as many as you like."""
        if self._pace is None:
            return None
        pace = self._pace + self._slope * (now - self._since)
        if pace >= self._ceiling:
            self._pace = None
            return None
        return pace

    def sent(self, now: float, count: float = 1.0) -> None:
        """A request is sent; with a *count* of -1, it was not sent after all."""
        pace = self.now(now)
        if pace is not None:
            self._full_at = max(self._full_at, now) + count / pace

    def refused(self, now: float, sent: float, sending: float, *, told: bool) -> None:
        """The provider refused a request that was sent at *sent*, while *sending* requests a second were sent.

        It was *told* or not when to come back.
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
        """Seconds until another request keeps the pace, of which it may be one ahead."""
        pace = self.now(now)
        return 0.0 if pace is None else max(0.0, self._full_at - now - 1.0 / pace)
