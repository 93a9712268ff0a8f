"""Takes a ticket through its lines: first those for rates, then those for permits."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, NoReturn

from llmkit_plugins.errors import RateLimited
from llmkit_plugins.plugins.rate_limiter.levels import Level, shown
from llmkit_plugins.plugins.rate_limiter.plans import AllOrNone
from llmkit_plugins.plugins.rate_limiter.rate import HALF_ULP
from llmkit_plugins.plugins.rate_limiter.turns import Place, next_look

if TYPE_CHECKING:
    from llmkit_plugins.plugins.rate_limiter.ticket import Ticket

_GRACE_SECONDS = 1.0


class Queueing:
    """Waits for the turn of *ticket*, at most *patience* seconds. Permits are taken once the rates admit, so a ticket
    waiting for rates holds none.

    Rates are charged on joining, so their wait is exact and can only shorten. The wait for permits is unknown; they are
    checked again after an eighth of the time waited so far. Everything here runs under the limiter's lock.
    """

    __slots__ = ("_began", "_not_before", "_over", "_passed_over", "_places", "ticket", "until")

    def __init__(self, ticket: Ticket, patience: float, not_before: float) -> None:
        self.ticket, self._not_before = ticket, not_before
        self._began = ticket.books.clock()
        self.until = self._began + patience
        """When it gives up."""
        self._places: list[tuple[Level, Hashable, Place]] = []
        self._over: Level | None = None
        self._passed_over = False

    @classmethod
    def join(cls, ticket: Ticket, patience: float, not_before: float = 0.0) -> Queueing | None:
        """Place *ticket* in every line it has to wait in; None if the wait would be longer than *patience*."""
        queueing = cls(ticket, patience, not_before)
        return queueing if queueing._charge(ticket.plan.rates, patience) else None

    def look(self) -> float:
        """Seconds to wait before looking again; 0.0 if it is the ticket's turn, which ends the queueing."""
        ticket, now = self.ticket, self.ticket.books.clock()
        if self._passed_over:
            self._refuse(HALF_ULP if ticket.over is None else ticket.over.retry_after or HALF_ULP)
        longest = self._longest(now)
        if longest > 0.0 and ticket.held and self._others_vanished(now):
            longest = self._longest(now)
        if longest > 0.0:
            if now >= self.until:
                self._refuse(longest)
            return self._nap(now) if ticket.held else longest
        self._leave(given_back=False)
        if ticket.plan.permits and not ticket.held:
            ticket.books.lease(ticket, self.until)
            self._charge(ticket.plan.concurrency, float("inf"))
            return self.look()
        self._end(now)
        return 0.0

    def give_up(self) -> None:
        """Leave every line; the waiters behind move up once the charge is given back."""
        self._leave(given_back=True)

    def pass_over(self) -> None:
        """Give everything back for a ticket that has stopped looking; it is refused if it does look again."""
        self.ticket.refund()
        self.ticket.queueing, self._passed_over = self, True

    def _charge(self, levels: AllOrNone, patience: float) -> bool:
        """Charge the ticket and join the lines of levels that are short; False if the wait would be too long."""
        ticket = self.ticket
        states = levels.take(ticket, patience) if levels.levels else ()
        if states is None:
            return False
        now, longest = ticket.books.clock(), 0.0
        for level, key, step, state in levels.of(ticket, states):
            seconds = level.excess(state, now)
            if seconds:
                self._places.append((level, key, level.line(key, now).join(step, self)))
            if seconds > longest:
                longest, self._over = seconds, level
                ticket.over = RateLimited(level.name, shown(key), seconds)
        return True

    def _longest(self, now: float) -> float:
        waits = [level.excess(place.state(level.table.state(key)), now) for level, key, place in self._places]
        return max(self._not_before - now, *waits, 0.0)

    def _others_vanished(self, now: float) -> bool:
        """Give back what is held by expired leases, and by first waiters that have stopped looking."""
        found = self.ticket.books.reclaim()
        for _, _, place in self._places:
            first = place.line.first()
            if first is not None and first.owner is not self and first.owner.until + _GRACE_SECONDS < now:
                first.owner.pass_over()
                found = True
        return found

    def _nap(self, now: float) -> float:
        """How long to sleep while others hold the permits."""
        return min(next_look(now - self._began), self.until - now)

    def _refuse(self, seconds: float) -> NoReturn:
        """Refuse after waiting in vain, for permits or because others used more than expected."""
        over = self.ticket.over
        if self._over is not None:
            self._over.refused += 1
        self.ticket.refund()
        raise RateLimited(over.limit if over else "", over.key if over else "", seconds)

    def _leave(self, *, given_back: bool) -> None:
        for level, key, place in self._places:
            place.leave(given_back=given_back)
            if not place.line.places and level.lines.get(key) is place.line:
                del level.lines[key]
        self._places = []

    def _end(self, now: float) -> None:
        ticket = self.ticket
        ticket.queueing = None
        if ticket.held:
            ticket.books.lease(ticket, now)
        if self._over is not None:
            self._over.waited += 1
            self._over.waited_seconds += now - self._began
