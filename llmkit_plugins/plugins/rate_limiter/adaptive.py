"""The limits that providers report, or that are inferred from their refusals."""

from __future__ import annotations

from collections.abc import Mapping

from llmkit_plugins.clock import Clock
from llmkit_plugins.plugins.rate_limiter.aimd import Pace
from llmkit_plugins.plugins.rate_limiter.headers import Said, said_of
from llmkit_plugins.plugins.rate_limiter.rate import FULL, Rate

MAX_HOLD_SECONDS = 3600.0
"""The longest that a provider's demand to stay away is respected."""

_WINDOW_SECONDS = 10.0
_MAX_TARGETS = 10_000

Sent = tuple[float, float, float]
"""When a request was sent, and how many requests and tokens had been sent with it."""


class Allowance:
    """The requests or tokens that a provider says it admits: GCRA with one float of state."""

    __slots__ = ("full_at", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.full_at = FULL

    def step(self, amount: float) -> float:
        """Seconds until *amount* is replenished, capped at a full bucket."""
        return min(amount * self.rate.interval, self.rate.fill)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until *amount* is available."""
        ahead = max(self.full_at - now, 0.0) + self.step(amount)
        return ahead - self.rate.fill if ahead > self.rate.depth else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take *amount*, even if not yet available."""
        self.full_at = max(self.full_at, now) + self.step(amount)

    def give_back(self, amount: float) -> None:
        """Return *amount*, which was not used after all."""
        self.full_at -= self.step(amount)


class TargetPace:
    """What one target's provider admits: its reported limits, its Retry-After, and the pace learned from refusals.

    Not thread-safe: hold a lock.
    """

    __slots__ = (
        "_allowed",
        "_began",
        "_clock",
        "_heard_at",
        "_hold_until",
        "_most",
        "_pace",
        "_requests",
        "_requests_before",
        "_tokens",
        "counts_tokens",
        "free",
        "target",
    )

    def __init__(self, target: str, clock: Clock) -> None:
        self.target, self._clock = target, clock
        self._allowed: dict[str, Allowance] = {}
        self._most: dict[str, float] = {}
        self._requests = self._tokens = self._requests_before = 0.0
        self._began = clock()
        self._heard_at = self._hold_until = FULL
        self._pace = Pace()
        self.free = True
        """True if nothing known could make anybody wait."""
        self.counts_tokens = False
        """Whether the provider has reported a token limit."""

    def wait(self, tokens: float) -> float:
        """Seconds until a request of *tokens* would be admitted, as far as is known."""
        if self.free:
            return 0.0
        now = self._clock()
        longest = max(0.0, self._hold_until - now, self._pace.wait(now))
        for meter, allowance in self._allowed.items():
            longest = max(longest, allowance.wait(tokens if meter == "tokens" else 1.0, now))
        self.free = not self._allowed and not longest and self._pace.now(now) is None
        return longest

    def send(self, tokens: float) -> Sent:
        """Count a request of *tokens*."""
        now = self._clock()
        if now - self._began > _WINDOW_SECONDS:
            self._began, self._requests_before = now, self._requests
        self._requests += 1.0
        self._tokens += tokens
        if not self.free:
            self._pace.sent(now)
            for meter, allowance in self._allowed.items():
                allowance.take(tokens if meter == "tokens" else 1.0, now)
        return now, self._requests, self._tokens

    def take_back(self, tokens: float) -> None:
        """Uncount a request of *tokens* that was not sent after all."""
        self._requests -= 1.0
        self._tokens -= tokens
        self._pace.sent(self._clock(), -1.0)
        for meter, allowance in self._allowed.items():
            allowance.give_back(tokens if meter == "tokens" else 1.0)

    def answered(
        self, sent: Sent, headers: Mapping[str, str], at: float, *, refused: bool, retry_after: float | None
    ) -> None:
        """Take account of the response to *sent*, which arrived at time *at* with these *headers*.

        *refused*: the provider's own limits refused it; *retry_after*: seconds it asked to wait.
        """
        now = self._clock()
        for said in said_of(headers) if at >= self._heard_at else ():
            self._heard_at = at
            self._hear(said, at, sent)
        if retry_after is not None:
            self._hold(now + retry_after)
        if refused:
            elapsed = max(now - self._began, 1.0)
            sending = (self._requests - self._requests_before) / elapsed
            self._pace.refused(now, sent[0], sending, told=retry_after is not None)
            self.free = False

    def _hear(self, said: Said, at: float, sent: Sent) -> None:
        """Update an allowance from what the provider reported.

        LLM providers (OpenAI, Anthropic, Groq) refill their buckets continuously and report as reset the time until
        the bucket is full: that is GCRA's state itself, and the rate follows from it. If no limit is reported, the most
        ever left is used; and if nothing is left then, nothing is sent until the reset.
        """
        allowance = self._allowed.get(said.meter)
        full = said.limit or max(self._most.get(said.meter, 0.0), said.left)
        self._most[said.meter] = full
        if said.limit is None and not said.left:
            self._hold(at + said.reset)
        used = full - said.left
        if full <= 0:
            return
        if used > 0 and said.reset > 0:
            amount = used / said.reset
        elif allowance is not None:
            amount = allowance.rate.amount
        else:
            return
        if allowance is None:
            allowance = self._allowed[said.meter] = Allowance(Rate(amount, full))
            self.counts_tokens = "tokens" in self._allowed
        elif (amount, full) != (allowance.rate.amount, allowance.rate.burst):
            allowance.rate = Rate(amount, full)
        since = self._tokens - sent[2] if said.meter == "tokens" else self._requests - sent[1]
        allowance.full_at = at + said.reset + since * allowance.rate.interval
        self.free = False

    def _hold(self, until: float) -> None:
        """Admit nothing before *until*; an earlier hold is only ever extended."""
        self._hold_until = max(self._hold_until, min(until, self._clock() + MAX_HOLD_SECONDS))
        self.free = False


class Paces(dict[str, TargetPace]):
    """The pace of each target, created on first use; the oldest are dropped if there are too many."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __missing__(self, target: str) -> TargetPace:
        while len(self) >= _MAX_TARGETS:
            self.pop(next(iter(self)), None)
        return self.setdefault(target, TargetPace(target, self._clock))
