"""What a ticket takes from limits that all processes share, besides what it took here."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from llmkit_plugins.call import new_id
from llmkit_plugins.errors import RateLimited
from llmkit_plugins.plugins.rate_limiter.levels import Level, shown
from llmkit_plugins.plugins.rate_limiter.turns import LOOK_AGAIN_SECONDS
from llmkit_plugins.steps import Ask, Wait

if TYPE_CHECKING:
    from llmkit_plugins.plugins.rate_limiter.ticket import Ticket
    from llmkit_plugins.stores.redis import Claim, RedisStore, Reply


class SharedCharge:
    """What a ticket has taken from *store*; its *claims* are in the order of its levels."""

    __slots__ = ("_charged", "_claims", "_store")

    def __init__(self, store: RedisStore, claims: Sequence[Claim], charged: Sequence[float]) -> None:
        self._store, self._claims, self._charged = store, claims, charged

    def charge(self, charged: Sequence[float]) -> None:
        """Let it be *charged*, in the unit of each level."""
        moved = [
            claim._replace(step=now - before)
            for claim, before, now in zip(self._claims, self._charged, charged, strict=True)
            if not claim.holder and now != before
        ]
        self._charged = charged
        if moved:
            self._store.shift(moved)

    def release(self) -> None:
        """Give back the permits."""
        self._store.shift([claim for claim in self._claims if claim.holder])


def share(store: RedisStore, ticket: Ticket, patience: float | None) -> Generator[Ask | Wait, Any, bool]:
    """Take from *store* what *ticket* has taken here; says whether it could be asked.

    Raises ``RateLimited``, having given everything back, where that would take longer than *patience* seconds; None:
    it only counts, and ``ticket.over`` is what would have been raised.
    """
    claims = [*map(partial(_claim, ticket, new_id()), ticket.plan.levels, ticket.keys, ticket.charged)]
    reply: Reply
    waited, level = 0.0, None
    try:
        while True:
            reply = yield Ask(partial(store.take, claims), partial(store.atake, claims))
            if reply.short is None:
                break
            level = ticket.plan.levels[reply.short]
            over = RateLimited(level.name, shown(ticket.keys[reply.short]), reply.seconds)
            if patience is None:
                level.refused += 1
                ticket.over = over
                return True
            nap = _nap(level, reply.seconds, patience - waited)
            if nap is None:
                level.refused += 1
                raise over
            ticket.over = ticket.over or over
            yield Wait(nap)
            waited += nap
    except BaseException:
        ticket.refund()
        raise
    if level is not None:
        level.waited += 1
        level.waited_seconds += waited
    if reply.taken:
        ticket.shared = SharedCharge(store, claims, ticket.charged)
    return reply.taken


def _nap(level: Level, seconds: float, left: float) -> float | None:
    """How long to sleep before asking again; None where that is in vain. When permits come back is only guessed."""
    if level.timed:
        return seconds if seconds <= left else None
    return min(seconds, LOOK_AGAIN_SECONDS, left) if left > 0.0 else None


def _claim(ticket: Ticket, holder: str, level: Level, key: Hashable, step: float) -> Claim:
    from llmkit_plugins.stores.redis import Claim

    name = f"{{llmkit}}:{level.meter}:{level.name}:{_digest(repr(key))}"
    if level.timed:
        return Claim(name, step, level.depth, level.fill)
    return Claim(name, ticket.books.lease_seconds, level.fill, level.held_seconds / level.fill, holder)


@lru_cache(maxsize=4096)
def _digest(key: str) -> str:
    """Whom a key stands for is nobody's business who may look into the store."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
