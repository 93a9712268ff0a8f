"""What a ticket takes from the limits shared by all processes, besides what it took in this one."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from llmkit_plugins.call import new_id
from llmkit_plugins.errors import RateLimited
from llmkit_plugins.plugins.rate_limiter.levels import Level, shown
from llmkit_plugins.plugins.rate_limiter.turns import LOOK_AGAIN_SECONDS, next_look
from llmkit_plugins.steps import Ask, Wait
from llmkit_plugins.stores.claims import Claim, Reply

if TYPE_CHECKING:
    from llmkit_plugins.plugins.rate_limiter.ticket import Ticket
    from llmkit_plugins.stores.redis import RedisStore


class SharedCharge:
    """What a ticket has taken from *store*; its *claims* are in the order of its levels."""

    __slots__ = ("_charged", "_claims", "_permits", "_store")

    def __init__(self, store: RedisStore, claims: Sequence[Claim], charged: Sequence[float]) -> None:
        self._store, self._claims, self._charged = store, claims, charged
        self._permits = [claim for claim in claims if claim.holder]

    def charge(self, charged: Sequence[float]) -> None:
        """Change the charge to *charged*, in the unit of each level."""
        moved = [
            claim._replace(step=now - before)
            for claim, before, now in zip(self._claims, self._charged, charged, strict=True)
            if not claim.holder and now != before
        ]
        self._charged = charged
        if moved:
            self._store.shift(moved)

    def release(self) -> None:
        """Give back the permits, once."""
        permits, self._permits = self._permits, []
        if permits:
            self._store.shift(permits)


def share(store: RedisStore, ticket: Ticket, until: float | None) -> Generator[Ask | Wait, Any, bool]:
    """Take from *store* what *ticket* has taken here; returns whether the store could be reached.

    Requests are taken in advance, so their wait is exact and no later caller is served first. Actual tokens and dollars
    differ from the estimate, and permits come back at any time, so the wait for these has to ask again.

    Raises ``RateLimited``, having given everything back, if this would take longer than *until*. With *until* None, it
    only counts, and sets ``ticket.over`` to what would have been raised.
    """
    plan, clock = ticket.plan, ticket.books.clock
    wanted = claims = [*map(partial(_claim, ticket, new_id()), plan.levels, ticket.keys, ticket.charged)]
    level, began = None, clock()
    try:
        while True:
            ahead = 0.0 if until is None or plan.metered else max(until - clock(), 0.0)
            reply: Reply = yield Ask(partial(store.take, wanted, ahead), partial(store.atake, wanted, ahead))
            if reply.taken and ticket.shared is None:
                ticket.shared = SharedCharge(store, claims, ticket.charged)
            if reply.short is None:
                break
            level = plan.levels[reply.short]
            over = RateLimited(level.name, shown(ticket.keys[reply.short]), reply.seconds)
            if until is None:
                level.refused += 1
                ticket.over = over
                return True
            now = clock()
            nap = reply.seconds if reply.taken else _nap(level, reply.seconds, until - now, now - began)
            if nap is None:
                level.refused += 1
                raise over
            ticket.over = ticket.over or over
            yield Wait(nap)
            if reply.taken:
                wanted = claims[: plan.permits]
                if not wanted:
                    break
    except BaseException:
        ticket.refund()
        raise
    if level is not None:
        level.waited += 1
        level.waited_seconds += clock() - began
        with ticket.books.lock:
            if ticket.held:
                ticket.books.lease(ticket, clock())
    return reply.taken


def _nap(level: Level, seconds: float, left: float, waited: float) -> float | None:
    """Seconds to sleep before asking again; None if it would be in vain. The longer the wait so far, the longer the
    sleep, as Redis has to answer all waiters."""
    if left <= 0.0 or (level.timed and seconds > left):
        return None
    nap = max(seconds, next_look(waited))
    return min(nap, left) if level.timed else min(nap, LOOK_AGAIN_SECONDS, left)


def _claim(ticket: Ticket, holder: str, level: Level, key: Hashable, step: float) -> Claim:
    name = f"{{llmkit}}:{level.meter}:{level.name}:{_digest(repr(key))}"
    if level.timed:
        return Claim(name, step, level.depth, level.fill)
    return Claim(name, ticket.books.lease_seconds, level.fill, level.held_seconds / level.fill, holder)


@lru_cache(maxsize=4096)
def _digest(key: str) -> str:
    """Hash *key*, so that the store does not reveal whom it stands for."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
