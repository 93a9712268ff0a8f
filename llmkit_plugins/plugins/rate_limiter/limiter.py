"""Any number of limits at once: either all admit a call, or nothing is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, get_args

from llmkit_plugins.call import Call, Target
from llmkit_plugins.clock import SYSTEM_CLOCK, Clock
from llmkit_plugins.errors import ConfigError, RateLimited
from llmkit_plugins.plugins.rate_limiter.adaptive import Paces, TargetPace
from llmkit_plugins.plugins.rate_limiter.admission import Admission, OnLimit
from llmkit_plugins.plugins.rate_limiter.atomic import atomic
from llmkit_plugins.plugins.rate_limiter.demand import exactly, expected, foreseen
from llmkit_plugins.plugins.rate_limiter.levels import Level, levels_of
from llmkit_plugins.plugins.rate_limiter.limits import Known, Limit
from llmkit_plugins.plugins.rate_limiter.phases import Phase
from llmkit_plugins.plugins.rate_limiter.plans import Keys, Plan
from llmkit_plugins.plugins.rate_limiter.rate import positive
from llmkit_plugins.plugins.rate_limiter.ticket import Books, Ticket
from llmkit_plugins.plugins.rate_limiter.unrolled import unrolled_check


class Check(Protocol):
    """See :attr:`RateLimiter.check_and_consume`."""

    def __call__(
        self,
        provider: str | None = None,
        model: str | None = None,
        user: str | None = None,
        tenant: str | None = None,
        target: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        input_tokens: float = 0,
        output_tokens: float = 0,
        cost: float = 0.0,
    ) -> bool:
        """Whether all limits admit it."""


@dataclass(frozen=True, slots=True)
class LimitStats:
    """What has happened at one limit so far."""

    refused: int
    """Calls refused, or in shadow mode admitted anyway."""
    waited: int
    """Calls that waited longer for this limit than for any other."""
    waited_seconds: float
    """Total seconds they waited."""
    keys: int
    """Keys being tracked."""


class RateLimiter:
    """Keeps calls within all *limits* that apply to them, across any number of threads and tasks.

    Over a limit, *on_limit* decides: ``reject`` raises ``RateLimited`` with the limit, the key and the exact seconds to
    wait; ``wait`` queues the call, first come, first served per key, unless it would wait longer than
    *max_wait_seconds*; ``shadow`` only counts. Permits of concurrency limits are reclaimed *lease_seconds* after they
    were taken. Each limit keeps track of at most *max_keys* keys. Times are in seconds of *clock*. Limits that
    providers report are respected too, unless *learn_from_providers* is False.

    In a kit the limits apply in two phases: those by user, tenant and metadata are charged once per caller
    (:meth:`request`), those by provider, model and target per attempt (:meth:`attempt`). Elsewhere, :meth:`acquire` and
    :attr:`check_and_consume` take from all of them at once.

    The algorithm is GCRA (ITU-T I.371), as in :class:`TokenBucket`. Raises ``ConfigError`` if a setting is wrong.
    """

    check_and_consume: Check
    """Take one request, and the tokens and dollars given, from every limit at once; False, and nothing taken, if any
    refuses.

    ``limiter.check_and_consume("openai", "gpt-4o", "user-1")``. Raises ``RateLimited`` if an amount can never be
    admitted, and ``ConfigError`` if a limit is one of concurrency, which has to be released: use :meth:`acquire`.
    """

    def __init__(
        self,
        limits: Sequence[Limit],
        *,
        on_limit: OnLimit = "reject",
        max_wait_seconds: float = 30.0,
        lease_seconds: float = 600.0,
        max_keys: int = 1_000_000,
        learn_from_providers: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if on_limit not in get_args(OnLimit):
            raise ConfigError(
                f"{on_limit!r} is not valid", key="on_limit", right=f"one of {', '.join(get_args(OnLimit))}"
            )
        self.limits, self.on_limit, self.clock = tuple(limits), on_limit, clock
        self.max_wait_seconds = positive("max_wait_seconds", max_wait_seconds)
        self._books = Books(clock, positive("lease_seconds", lease_seconds))
        self.estimator = self._books.estimator
        self._paces = Paces(clock) if learn_from_providers else None
        lock = self._books.lock
        bound = [(limit, levels_of(limit, max_keys, lock)) for limit in self.limits]
        self._levels: list[Level] = [level for _, levels in bound for level in levels]
        _check_names(self._levels)
        self._request = Phase([entry for entry in bound if not entry[0].of_the_attempt], clock, lock)
        self._attempt = Phase([entry for entry in bound if entry[0].of_the_attempt], clock, lock)
        self._all = Phase(bound, clock, lock)
        self.limits_callers = bool(self._request.full.levels)
        """Whether there is anything that :meth:`request` takes."""
        self.limits_attempts = learn_from_providers or bool(self._attempt.full.levels)
        """Whether there is anything that :meth:`attempt` takes or learns."""
        self.counts_money = self._all.full.priced
        """Whether any limit counts dollars."""
        self._admission = Admission(self._books, self._levels, on_limit)
        self.check_and_consume = self._fast_check() or self._check

    @classmethod
    def hierarchical(cls, **settings: Any) -> RateLimiter:
        """The usual hierarchy: 100 requests a second for each provider, 10 for each model, 1 for each user."""
        return cls([Limit.per_provider(), Limit.per_model(), Limit.per_user()], **settings)

    def request(self, call: Call) -> Ticket:
        """Take what *call* needs from the limits of its caller. Raises ``RateLimited``."""
        return self._take(self._request, (None, None, call.user, call.tenant, None), call)

    def attempt(self, call: Call, target: Target) -> Ticket:
        """Take what an attempt of *call* at *target* needs from their limits. Raises ``RateLimited``."""
        known = target.provider, target.model, call.user, call.tenant, target.name
        return self._take(self._attempt, known, call, target)

    def outlook(self, call: Call, target: Target) -> RateLimited | None:
        """The refusal that an attempt of *call* at *target* would meet now; None if there is capacity."""
        return self.outlooks(call, (target,))[0]

    def outlooks(self, call: Call, targets: Sequence[Target]) -> list[RateLimited | None]:
        """The refusal that an attempt at each of *targets* would meet."""
        found: list[RateLimited | None] = []
        phase, paces = self._attempt, self._paces
        has_room, metered = phase.has_room, phase.full.metered
        for target in targets:
            known = target.provider, target.model, call.user, call.tenant, target.name
            pace = None if paces is None else paces[target.name]
            if metered or not (pace is None or pace.free):
                amounts = foreseen(self._books, phase.full, call, target)
                delay = self._admission.delay(pace, amounts["tokens"])
                room = not delay and has_room(known, *phase.full.expected(amounts))
            else:
                room = has_room(known)
            found.append(None if room else self._refusal(call, target, pace, known))
        return found

    def acquire(
        self,
        provider: str | None = None,
        model: str | None = None,
        user: str | None = None,
        tenant: str | None = None,
        target: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        input_tokens: float = 0,
        output_tokens: float = 0,
        cost: float = 0.0,
        max_wait_seconds: float | None = None,
    ) -> Ticket:
        """Take one request, and the tokens and dollars given, from every limit at once, in any phase.

        ``with limiter.acquire(user="user-1", input_tokens=800) as ticket: ...``. Raises ``RateLimited``; with
        ``retry_after`` None if an amount can never be admitted.
        """
        pace = None if self._paces is None or target is None else self._paces[target]
        known = provider, model, user, tenant, target
        if self._all.admit is not None and not self._all.full.metered:
            ticket = Ticket(self._books, self._all.full, (), self._all.full.ones, pace)
            if self._admission.at_once(ticket, self._all.admit, known):
                return ticket
        plan, keys = self._all.select(known, metadata or {})
        amounts = {"input_tokens": input_tokens, "output_tokens": output_tokens, "cost": cost}
        ticket = exactly(self._books, plan, keys, amounts, pace)
        return self._admission.take(ticket, self.max_wait_seconds if max_wait_seconds is None else max_wait_seconds)

    def stats(self) -> dict[str, LimitStats]:
        """What has happened at each limit, by its name."""
        return {
            level.name: LimitStats(level.refused, level.waited, level.waited_seconds, len(level.table))
            for level in self._levels
        }

    def _take(self, phase: Phase, known: Known, call: Call, target: Target | None = None) -> Ticket:
        pace = None if self._paces is None or target is None else self._paces[target.name]
        if phase.admit is not None:
            ticket = self._needing(phase.full, (), pace, call, target)
            if self._admission.at_once(ticket, phase.admit, known):
                return ticket
        plan, keys = phase.select(known, call.metadata)
        return self._admission.take(self._needing(plan, keys, pace, call, target), self.patience(call) or 0.0)

    def _refusal(self, call: Call, target: Target, pace: TargetPace | None, known: Known) -> RateLimited | None:
        plan, keys = self._attempt.select(known, call.metadata)
        return self._admission.over(self._needing(plan, keys, pace, call, target))

    def _needing(self, plan: Plan, keys: Keys, pace: TargetPace | None, call: Call, target: Target | None) -> Ticket:
        if plan.metered or (pace is not None and pace.counts_tokens):
            return expected(self._books, plan, keys, pace, call, target)
        return Ticket(self._books, plan, keys, plan.ones, pace)

    def patience(self, call: Call) -> float | None:
        """Seconds that *call* may wait; None in shadow mode, which never waits."""
        if self.on_limit != "wait":
            return None if self.on_limit == "shadow" else 0.0
        left = self.max_wait_seconds if call.deadline is None else call.deadline - self.clock()
        return max(0.0, min(self.max_wait_seconds, left))

    def _fast_check(self) -> Check | None:
        """``check_and_consume`` unrolled for these limits; None if they are not simple enough."""
        plain = all(limit.plain for limit in self.limits)
        if not plain or not self._levels or self.on_limit == "shadow":
            return None
        if any(level.meter != "requests" for level in self._levels):
            return None

        def adopt(*given: Any) -> bool:
            """Handle a key that is new, old or missing."""
            plan, keys = self._all.select(cast(Known, given[:5]), {})
            whole = len(plan.levels) == len(self._levels)
            return check(*given) if whole and plan.adopt(keys) == keys else self._check(*given)

        names = [limit.per for limit in self.limits]
        check = cast(Check, unrolled_check(self._levels, self.clock, names, adopt))
        return atomic(check, self._books.lock)

    def _check(
        self,
        provider: str | None = None,
        model: str | None = None,
        user: str | None = None,
        tenant: str | None = None,
        target: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        input_tokens: float = 0,
        output_tokens: float = 0,
        cost: float = 0.0,
    ) -> bool:
        plan, keys = self._all.select((provider, model, user, tenant, target), metadata or {})
        if plan.permits:
            name = plan.levels[0].name
            raise ConfigError(f"a permit of {name!r} has to be released", key="check_and_consume", right="use acquire")
        amounts = {"input_tokens": input_tokens, "output_tokens": output_tokens, "cost": cost}
        ticket = exactly(self._books, plan, keys, amounts, None)
        if self._admission.charge(ticket) is not None:
            return True
        over = self._admission.over(ticket)
        if over is not None:
            self._admission.count(over)
        return self.on_limit == "shadow"


def _check_names(levels: Sequence[Level]) -> None:
    names = [level.name for level in levels]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two limits are called {twice!r}", key="limits", right="give each a name of its own")
