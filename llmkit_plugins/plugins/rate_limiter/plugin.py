"""The hooks, which only translate between calls and the limiter."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llmkit_plugins.call import Attempt, Call, Response, Target
from llmkit_plugins.errors import RateLimited, Refused
from llmkit_plugins.events import Events, LimitReached, StoreUnreachable
from llmkit_plugins.hookspecs import hookimpl
from llmkit_plugins.plugins.rate_limiter.config import RateLimiterConfig
from llmkit_plugins.plugins.rate_limiter.limiter import RateLimiter
from llmkit_plugins.plugins.rate_limiter.shared import share
from llmkit_plugins.plugins.rate_limiter.ticket import Ticket
from llmkit_plugins.steps import Ask, Prefer, Wait

if TYPE_CHECKING:
    from llmkit_plugins.kit import LLMKit
    from llmkit_plugins.stores.redis import RedisStore

Steps = Generator[Ask | Wait, Any, None]

CLOSE_SECONDS = 2.0
"""How long closing waits until everything has been given back to the shared store."""


class Spent(NamedTuple):
    """What an attempt used; None keeps the estimate."""

    input_tokens: float | None
    output_tokens: float | None
    cost: float | None
    complete: bool
    """Whether the provider reported it for a complete answer: only then is anything learned."""


NOTHING = Spent(0.0, 0.0, 0.0, complete=False)
AS_EXPECTED = Spent(None, None, None, complete=False)


class RateLimiterPlugin:
    """Keeps callers and providers within their limits: refuses with the exact wait, or queues calls.

    Limits by user, tenant and metadata are charged once per caller, before routing; those by provider, model and target
    are charged per attempt. *settings* are those of :class:`RateLimiterConfig`. Raises ``ConfigError``.
    """

    Config = RateLimiterConfig
    name = "rate_limiter"

    def __init__(self, **settings: Any) -> None:
        self.config = RateLimiterConfig(**settings)
        self.limiter = RateLimiter(**self._settings())
        self.store: RedisStore | None = None if self.config.store is None else _store_at(self.config.store)
        """The store shared with other processes."""
        self._events: Events | None = None

    def attach(self, kit: LLMKit) -> None:
        """Use the clock of *kit*, and publish events when a call runs into a limit.

        Kits with the same clock can share a limiter and its limits.
        """
        if self.limiter.clock is not kit.clock:
            self.limiter = RateLimiter(**self._settings(), clock=kit.clock)
        self._events = kit.events

    def close(self) -> None:
        """Make sure that the store gets back what is owed to other processes."""
        if self.store is not None:
            self.store.flush(CLOSE_SECONDS)

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self.config, name) for name in RateLimiterConfig.model_fields if name != "store"}

    @hookimpl
    def llmkit_pre_request(self, call: Call) -> Steps | None:
        return self._take(call, call.state, self.limiter.request, call) if self.limiter.limits_callers else None

    @hookimpl
    def llmkit_route(self, call: Call, targets: Sequence[Target]) -> Sequence[Target] | Prefer | None:
        if len(targets) < 2 or self.config.on_limit == "shadow" or not self.limiter.limits_attempts:
            return None
        refusals = self.limiter.outlooks(call, targets)
        if not any(refusals):
            return None
        free = [target for target, refusal in zip(targets, refusals, strict=True) if refusal is None]
        waits = [(_wait(refusal), place) for place, refusal in enumerate(refusals) if refusal is not None]
        soonest = [targets[place] for _, place in sorted(waits)]
        return Prefer(free, soonest) if free else soonest

    @hookimpl
    def llmkit_pre_attempt(self, call: Call, attempt: Attempt) -> Steps | None:
        if not self.limiter.limits_attempts:
            return None
        return self._take(call, attempt.state, self.limiter.attempt, call, attempt.target)

    @hookimpl
    def llmkit_post_attempt(self, call: Call, attempt: Attempt) -> None:
        ticket: Ticket | None = attempt.state.pop(self, None)
        of_caller: Ticket | None = call.state.get(self)
        try:
            if attempt.started is None:
                if ticket is not None:
                    ticket.refund()
                return
            if (ticket is not None and ticket.amounts) or (of_caller is not None and of_caller.amounts):
                spent = _spent(attempt, priced=self.limiter.counts_money)
                if ticket is not None:
                    _settle(ticket, spent)
                if of_caller is not None and spent is not NOTHING:
                    _settle(of_caller, spent)
            if ticket is not None:
                limited, wait = attempt.kind == "rate_limit", attempt.retry_after
                ticket.answered(attempt.headers, at=attempt.first_chunk, refused=limited, retry_after=wait)
        finally:  # whatever invalid usage or headers a backend supplied
            if ticket is not None:
                ticket.release()
            if of_caller is not None and call.outcome is not None:
                _return_unspent(of_caller, call)

    @hookimpl
    def llmkit_post_response(self, call: Call, response: Response) -> None:
        ticket = self._caller_left(call)
        if ticket is not None:
            if response.shared is not None or not call.attempts:
                _settle(ticket, NOTHING)
            ticket.release()

    @hookimpl
    def llmkit_error(self, call: Call) -> None:
        ticket = self._caller_left(call)
        if ticket is not None:
            if not _runs_on(call):
                _return_unspent(ticket, call)
            ticket.release()

    def _caller_left(self, call: Call) -> Ticket | None:
        """The caller's ticket. If an attempt continues without the caller, it is kept until that has been settled."""
        ticket: Ticket | None = call.state.get(self) if _runs_on(call) else call.state.pop(self, None)
        return ticket

    def _take(self, call: Call, state: dict[object, Any], take: Callable[..., Ticket], *what: Any) -> Steps | None:
        try:
            ticket = state[self] = take(*what)
        except RateLimited as refusal:
            self._tell(call, refusal, "refused")
            raise
        if ticket.queueing is not None or (self.store is not None and ticket.plan.levels):
            return self._turn(call, ticket)
        if ticket.over is not None:
            self._tell(call, ticket.over, "passed")
        return None

    def _turn(self, call: Call, ticket: Ticket) -> Steps:
        """Wait in line, then take from the shared store. If the caller cannot wait or goes away, its place is given
        up."""
        begun, patience = self.limiter.clock(), self.limiter.patience(call)
        try:
            with closing(ticket.naps()) as naps:
                for seconds in naps:
                    yield Wait(seconds)
            if self.store is not None and ticket.plan.levels:
                until = None if patience is None else begun + patience
                if not (yield from share(self.store, ticket, until)) and self._events is not None:
                    self._events.publish(StoreUnreachable(call, self.store.place))
        except Refused as refusal:
            refusal = ticket.over if ticket.over is not None and not isinstance(refusal, RateLimited) else refusal
            if isinstance(refusal, RateLimited):
                self._tell(call, refusal, "refused")
            raise refusal from None
        if ticket.over is not None:
            if patience is None:
                self._tell(call, ticket.over, "passed")
            else:
                self._tell(call, ticket.over, "waited", self.limiter.clock() - begun)

    def _tell(
        self,
        call: Call,
        refusal: RateLimited,
        action: Literal["refused", "waited", "passed"],
        seconds: float | None = None,
    ) -> None:
        if self._events is not None and self._events.wanted(LimitReached):
            waited = _wait(refusal) if seconds is None else seconds
            self._events.publish(LimitReached(call, refusal.limit, action, waited))


def _wait(refusal: RateLimited) -> float:
    return float("inf") if refusal.retry_after is None else refusal.retry_after


def _store_at(url: str) -> RedisStore:
    from llmkit_plugins.stores.redis import store_at

    return store_at(url)


def _spent(attempt: Attempt, *, priced: bool) -> Spent:
    """What *attempt* used: as reported by the provider, else as streamed, else as estimated. Dollars only if
    *priced*."""
    usage = attempt.usage
    if attempt.started is None:
        return NOTHING
    if usage is not None:
        return Spent(usage.input_tokens, usage.output_tokens, attempt.cost if priced else None, attempt.outcome == "ok")
    if attempt.outcome == "ok":
        return AS_EXPECTED
    if attempt.first_chunk is not None:
        return Spent(None, max(0, attempt.chunks), None, complete=False)  # providers send about one token per chunk
    return NOTHING if attempt.outcome == "error" else AS_EXPECTED


def _runs_on(call: Call) -> bool:
    """Whether an attempt of *call* is still under way, because other callers share it."""
    return bool(call.attempts) and call.attempts[-1].outcome is None


def _return_unspent(ticket: Ticket, call: Call) -> None:
    """Give back to the caller what no attempt has used, including the request if none was sent."""
    sent = [attempt for attempt in call.attempts if attempt.started is not None]
    if not sent:
        ticket.refund()
    elif all(_spent(attempt, priced=False) is NOTHING for attempt in sent):
        _settle(ticket, NOTHING)


def _settle(ticket: Ticket, spent: Spent) -> None:
    """Charge what was *spent*, if anything besides requests is counted."""
    if ticket.amounts and spent is not AS_EXPECTED:
        ticket.settle(spent.input_tokens, spent.output_tokens, spent.cost, complete=spent.complete)
