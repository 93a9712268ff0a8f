"""How much a provider admits per minute."""

from __future__ import annotations

from llmkit_plugins.testing.fake_provider.api_error import ApiError, duration, limit_headers, retry_headers
from llmkit_plugins.testing.fake_provider.behaviour import Behaviour


class Allowance:
    """A limit per minute that refills continuously, as OpenAI's do. Times are seconds of one monotonic clock."""

    def __init__(self, name: str, per_minute: int, now: float) -> None:
        self.name, self.per_minute = name, per_minute
        self._left, self._at = float(per_minute), now

    def _seconds_until(self, amount: float, now: float) -> float:
        self._left = min(self.per_minute, self._left + (now - self._at) * self.per_minute / 60)
        self._at = now
        return max(0.0, (amount - self._left) * 60 / self.per_minute)

    def wait(self, amount: int, now: float) -> float:
        """Seconds until *amount* could be taken; for more than a whole minute's worth, until the limit is full."""
        return self._seconds_until(min(amount, self.per_minute), now)

    def take(self, amount: int) -> None:
        """Use up *amount*."""
        self._left -= amount

    def headers(self, now: float) -> dict[str, str]:
        """The ``x-ratelimit-*`` headers: the limit, what is left of it, and how long until it is full."""
        full = self._seconds_until(self.per_minute, now)
        return limit_headers(self.name, max(0, int(self._left)), full, self.per_minute)


class Allowances:
    """The limits of *behaviour*, on requests and on tokens: either all are used or none."""

    def __init__(self, behaviour: Behaviour, now: float) -> None:
        limits = {"requests": behaviour.requests_per_minute, "tokens": behaviour.tokens_per_minute}
        self._limits = [Allowance(name, limit, now) for name, limit in limits.items() if limit is not None]

    def take(self, tokens: int, now: float) -> None:
        """Use up one request of *tokens*. Raises ``ApiError`` (429) with the exact wait if a limit is exhausted."""
        amounts = {"requests": 1, "tokens": tokens}
        waits = {limit: limit.wait(amounts[limit.name], now) for limit in self._limits}
        longest = max(waits, key=lambda limit: waits[limit], default=None)
        if longest is not None and waits[longest] > 0:
            raise self._exhausted(longest, waits[longest])
        for limit in self._limits:
            limit.take(amounts[limit.name])

    def headers(self, now: float) -> dict[str, str]:
        """The ``x-ratelimit-*`` headers of all limits."""
        return {name: value for limit in self._limits for name, value in limit.headers(now).items()}

    def _exhausted(self, limit: Allowance, wait: float) -> ApiError:
        return ApiError(
            429,
            f"Rate limit reached on {limit.name} per min: Limit {limit.per_minute}. Try again in {duration(wait)}.",
            type=limit.name,
            code="rate_limit_exceeded",
            headers=retry_headers(wait),
        )
