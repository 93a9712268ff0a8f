"""Admits tickets: takes everything a ticket needs, or nothing, in which case it is refused, waits, or passes anyway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from llmkit_plugins.errors import RateLimited
from llmkit_plugins.plugins.rate_limiter.adaptive import TargetPace
from llmkit_plugins.plugins.rate_limiter.levels import Level, shown
from llmkit_plugins.plugins.rate_limiter.limits import Known
from llmkit_plugins.plugins.rate_limiter.plans import Keys, Plan
from llmkit_plugins.plugins.rate_limiter.queueing import Queueing
from llmkit_plugins.plugins.rate_limiter.ticket import Books, Ticket
from llmkit_plugins.plugins.rate_limiter.unrolled import Admit

OnLimit = Literal["reject", "wait", "shadow"]

PROVIDER_LIMIT = "the provider's own limit"
"""The name of a limit learned from a target's provider."""


class Admission:
    """Takes what tickets need from their levels; if there is too little, *on_limit* decides."""

    def __init__(self, books: Books, levels: Sequence[Level], on_limit: OnLimit) -> None:
        self._books, self._on_limit = books, on_limit
        self._levels = {level.name: level for level in levels}
        self._nothing = Plan((), books.clock, books.lock)

    def take(self, ticket: Ticket, patience: float) -> Ticket:
        """Return *ticket* once it has taken what it needs, or a place in line for at most *patience* seconds. Raises
        ``RateLimited``."""
        while not self._take_now(ticket):
            if self._on_limit == "wait" and self._queue(ticket, patience):
                return ticket
            over = self.over(ticket)
            if over is None:
                continue  # something was given back in the meantime
            self.count(over)
            if self._on_limit != "shadow":
                raise over
            return self._untaken(ticket, over)
        return ticket

    def at_once(self, ticket: Ticket, admit: Admit, known: Known) -> bool:
        """Find the keys of *ticket* and take what it needs, in one step; False means that the slow path must decide."""
        pace = ticket.pace
        if pace is None or pace.free:
            return self._sent(ticket, admit(known, *ticket.charged) if ticket.plan.metered else admit(known))
        with self._books.lock:
            return not pace.wait(ticket.expected_tokens) and self._sent(ticket, admit(known, *ticket.charged))

    def charge(self, ticket: Ticket) -> Keys | None:
        """Take from every level or from none; returns the keys under which it was taken, or None."""
        plan, books = ticket.plan, self._books
        if not plan.levels:
            return ()
        if not plan.permits:
            return None if plan.all.take(ticket) is None else ticket.keys
        books.lease(ticket, books.clock())  # before taking the permits, so that none can be lost
        if plan.all.take(ticket) is None and not (books.reclaim() and plan.all.take(ticket) is not None):
            books.leases.pop(ticket, None)
            return None
        return ticket.keys

    def over(self, ticket: Ticket) -> RateLimited | None:
        """The refusal with the longest wait that *ticket* would get now, if any."""
        plan, pace, books = ticket.plan, ticket.pace, self._books
        worst = plan.worst(ticket.keys, ticket.charged, books.clock())
        delay = self.delay(pace, ticket.expected_tokens)
        if pace is not None and delay > (worst[1] if worst else 0.0):
            return RateLimited(PROVIDER_LIMIT, pace.target, delay)
        if worst is None:
            return None
        number, seconds = worst
        return RateLimited(plan.levels[number].name, shown(ticket.keys[number]), seconds)

    def delay(self, pace: TargetPace | None, tokens: float) -> float:
        """Seconds until the provider admits another request of *tokens*, as far as is known."""
        if pace is None or pace.free:
            return 0.0
        with self._books.lock:
            return pace.wait(tokens)

    def count(self, over: RateLimited) -> None:
        """Count a refusal at its limit."""
        level = self._levels.get(over.limit)
        if level is not None:
            level.refused += 1

    def _take_now(self, ticket: Ticket) -> bool:
        pace = ticket.pace
        if pace is None or pace.free:
            return self._sent(ticket, self.charge(ticket))
        with self._books.lock:
            return not pace.wait(ticket.expected_tokens) and self._sent(ticket, self.charge(ticket))

    def _sent(self, ticket: Ticket, keys: Keys | None) -> bool:
        """If *keys* say that *ticket* took what it needs, count it as sent to its target; returns whether it did."""
        if keys is None:
            return False
        ticket.keys = keys
        if ticket.pace is not None:
            ticket.sent = ticket.pace.send(ticket.expected_tokens)
        return True

    def _queue(self, ticket: Ticket, patience: float) -> bool:
        """Join the lines; False if the wait would be too long."""
        pace, books = ticket.pace, self._books
        with books.lock:
            delay = 0.0 if pace is None else pace.wait(ticket.expected_tokens)
            queueing = Queueing.join(ticket, patience, books.clock() + delay) if delay <= patience else None
            if queueing is None:
                return False
            ticket.queueing = queueing
            if pace is not None:
                ticket.sent = pace.send(ticket.expected_tokens)
                if delay > ((ticket.over and ticket.over.retry_after) or 0.0):
                    ticket.over = RateLimited(PROVIDER_LIMIT, pace.target, delay)
            queueing.look()
        return True

    def _untaken(self, ticket: Ticket, over: RateLimited) -> Ticket:
        """A ticket that has taken nothing, for a call that proceeds anyway."""
        free = Ticket(self._books, self._nothing, (), (), ticket.pace, ticket.amounts)
        free.over = over
        if free.pace is not None:
            with self._books.lock:
                free.sent = free.pace.send(ticket.expected_tokens)
        return free
