"""What one call has taken: waited for, settled to actual usage, or given back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType
from typing import Any

from llmkit_plugins.clock import Clock
from llmkit_plugins.errors import RateLimited
from llmkit_plugins.forks import new_rlock
from llmkit_plugins.plugins.rate_limiter.adaptive import Sent, TargetPace
from llmkit_plugins.plugins.rate_limiter.estimate import Estimator
from llmkit_plugins.plugins.rate_limiter.plans import Keys, Plan
from llmkit_plugins.plugins.rate_limiter.queueing import Queueing
from llmkit_plugins.plugins.rate_limiter.shared import SharedCharge
from llmkit_plugins.plugins.rate_limiter.turns import LOOK_AGAIN_SECONDS
from llmkit_plugins.plugins.rate_limiter.waiting import Naps, wait, wait_async

_NO_AMOUNTS: Mapping[str, float] = MappingProxyType({})


@dataclass(slots=True)
class Books:
    """State shared by the tickets of one limiter."""

    clock: Clock
    lease_seconds: float
    lock: Any = field(default_factory=new_rlock)
    leases: dict[Ticket, None] = field(default_factory=dict)
    """The tickets that hold permits, oldest lease first."""
    estimator: Estimator = field(default_factory=Estimator)

    def lease(self, ticket: Ticket, since: float) -> None:
        """Have the permits of *ticket* expire ``lease_seconds`` after *since*."""
        self.leases.pop(ticket, None)
        ticket.leased_until = since + self.lease_seconds
        self.leases[ticket] = None

    def reclaim(self) -> bool:
        """Reclaim the permits whose lease has expired; returns whether there were any."""
        found = False
        with self.lock:
            now = self.clock()
            while (oldest := self._oldest()) is not None and oldest.leased_until <= now:
                oldest.release()
                self.leases.pop(oldest, None)
                found = True
        return found

    def _oldest(self) -> Ticket | None:
        while True:
            try:
                return next(iter(self.leases), None)
            except RuntimeError:  # permits are taken without a lock: another thread has just begun a lease
                continue


class Ticket:
    """What one call, or one attempt, has taken from the limits that apply to it.

    The holder waits until :attr:`wait` is 0 (:meth:`naps`, ``with`` and ``async with`` do that), makes the call, and
    reports how it went: :meth:`settle` with what was used, :meth:`release` when it is over, :meth:`refund` if it never
    reached the provider. Each may be called twice, late, and from any thread. ``with`` releases on exit.
    """

    __slots__ = (
        "_learn_as",
        "_settled",
        "amounts",
        "books",
        "charged",
        "expected_tokens",
        "held",
        "keys",
        "leased_until",
        "over",
        "pace",
        "plan",
        "queueing",
        "sent",
        "shared",
    )

    def __init__(
        self,
        books: Books,
        plan: Plan,
        keys: Keys,
        charged: Sequence[float],
        pace: TargetPace | None = None,
        amounts: Mapping[str, float] = _NO_AMOUNTS,
        learn_as: LearnAs | None = None,
    ) -> None:
        self.books, self.plan, self.keys = books, plan, keys
        self.charged = charged
        """What it took from each level, in the level's unit."""
        self.amounts = amounts
        """What it is expected to use, and after :meth:`settle` what it used; empty if only requests are counted."""
        self.over: RateLimited | None = None
        """The limit it ran into, if it has to wait for it (``wait``) or was let through anyway (``shadow``)."""
        self.held = False
        self.leased_until = 0.0
        self.queueing: Queueing | None = None
        self.pace = pace
        self.sent: Sent | None = None
        self.shared: SharedCharge | None = None
        """What it also took from the store shared with other processes."""
        self.expected_tokens = amounts.get("tokens", 0.0)
        self._learn_as = learn_as
        self._settled = False

    @property
    def wait(self) -> float:
        """Seconds to wait before looking again; 0.0: it is this ticket's turn.

        Raises ``RateLimited``, having given everything back, if it has waited in vain for as long as it may.
        """
        if self.queueing is None:
            return 0.0
        with self.books.lock:
            return 0.0 if self.queueing is None else self.queueing.look()

    def naps(self) -> Naps:
        """Yields how long to sleep, repeatedly, until it is this ticket's turn. If closed before that, it refunds the
        ticket."""
        try:
            while seconds := self.wait:
                yield min(seconds, LOOK_AGAIN_SECONDS)
        except BaseException:
            self.refund()
            raise

    def settle(
        self,
        input_tokens: float | None = None,
        output_tokens: float | None = None,
        cost: float | None = None,
        *,
        complete: bool = True,
    ) -> None:
        """Charge actual usage in place of the estimate; a None keeps its estimate.

        Usage beyond the estimate is charged as well, so a debt may result. Repeated calls (for further attempts) add
        up. With *complete* False (the answer broke off), nothing is learned. An amount that is not a finite number of
        at least 0 counts as unknown: it would corrupt the limit for good.
        """
        input_tokens, output_tokens, cost = map(_known, (input_tokens, output_tokens, cost))
        told: dict[str, float] = {}
        with self.books.lock:
            if complete and self._learn_as is not None:
                self._learn(self._learn_as, input_tokens, output_tokens, cost)
            so_far = self.amounts if self._settled else _NO_AMOUNTS
            if input_tokens is not None:
                told["input_tokens"] = input_tokens + so_far.get("input_tokens", 0.0)
            if output_tokens is not None:
                told["output_tokens"] = output_tokens + so_far.get("output_tokens", 0.0)
            if cost is not None:
                told["cost"] = cost + so_far.get("cost", 0.0)
            now = {**self.amounts, **told}
            if input_tokens is not None or output_tokens is not None:
                now["tokens"] = told["tokens"] = now.get("input_tokens", 0.0) + now.get("output_tokens", 0.0)
            self.amounts, self._settled = now, True
            if self.plan.metered:
                self._charge(told)

    def release(self) -> None:
        """Release the permits: the call is over. What it used stays charged."""
        if not self.plan.permits:
            return
        books = self.books
        with books.lock:
            if self.shared is not None:
                self.shared.release()
            if not self.held:
                return
            seconds = books.clock() - (self.leased_until - books.lease_seconds)
            for level, key in zip(self.plan.levels[: self.plan.permits], self.keys, strict=False):
                level.table.shift(key, -1.0, 0.0)
                if self.queueing is None:
                    level.held_seconds += (seconds - level.held_seconds) / 8
            # Last: if Ctrl-C interrupts this, the lease gives them back.
            self.held = False
            books.leases.pop(self, None)

    def refund(self) -> None:
        """Give everything back, the request itself included. A waiter gives its place to those behind it."""
        with self.books.lock:
            if self.queueing is not None:
                self.queueing.give_up()
            self.release()
            self.queueing = None
            nothing = dict.fromkeys(("requests", "tokens", "input_tokens", "output_tokens", "cost"), 0.0)
            self._charge(nothing)
            if self.pace is not None and self.sent is not None:
                self.pace.take_back(self.expected_tokens)
                self.sent = None

    def answered(
        self,
        headers: Mapping[str, str] | None = None,
        *,
        at: float | None = None,
        refused: bool = False,
        retry_after: float | None = None,
    ) -> None:
        """Report what the provider said about its limits, *at* a time (now, if not given), to be respected from now on.

        *headers* are those of its response, in lower case; *refused*: it answered that its limit is used up.
        """
        if self.pace is None or not (headers or refused or retry_after is not None):
            return
        with self.books.lock:
            if self.sent is not None:
                moment = self.books.clock() if at is None else at
                self.pace.answered(self.sent, headers or {}, moment, refused=refused, retry_after=retry_after)

    def __enter__(self) -> Ticket:
        if self.queueing is not None:
            wait(self.naps(), self.books.clock)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def __aenter__(self) -> Ticket:
        if self.queueing is not None:
            await wait_async(self.naps())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def _charge(self, amounts: Mapping[str, float]) -> None:
        """Change the charge to *amounts* at the levels that count them."""
        now = self.books.clock()
        charged = list(self.charged)
        for number, level in enumerate(self.plan.levels):
            if level.meter in amounts:
                step = level.interval * amounts[level.meter]
                level.charge(self.keys[number], step - charged[number], now)
                charged[number] = step
        self.charged = charged
        if self.shared is not None:
            self.shared.charge(charged)

    def _learn(
        self, learn_as: LearnAs, input_tokens: float | None, output_tokens: float | None, cost: float | None
    ) -> None:
        model, chars = learn_as
        self.books.estimator.learn(model, chars, input_tokens, output_tokens)
        if cost is not None:
            self.books.estimator.learn_cost(model, (input_tokens or 0.0) + (output_tokens or 0.0), cost)


def _known(amount: float | None) -> float | None:
    return amount if amount is not None and 0.0 <= amount < inf else None


LearnAs = tuple[str | None, int]
"""The model, and the length of the prompt in characters, for the estimator."""
