"""One upstream, many callers: which upstreams are under way, and which calls may join them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from llmkit_plugins.call import Call
from llmkit_plugins.clock import Clock
from llmkit_plugins.engine.flights import Flight, Key, Source, inside
from llmkit_plugins.engine.seats import AnyFlight, Copy, TaskSeat, ThreadSeat
from llmkit_plugins.engine.task_flights import TaskFlight
from llmkit_plugins.engine.thread_flights import ThreadFlight
from llmkit_plugins.errors import UpstreamLost
from llmkit_plugins.forks import in_child, new_rlock
from llmkit_plugins.steps import Share


class Flights:
    """The flights under way, by key. Streamed and whole answers, threads, and each event loop are kept apart."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = new_rlock()  # re-entrant: any allocation may garbage-collect a stream, which then leaves
        self.joinable: dict[Key, Flight[Any]] = {}
        self.under_way: set[Flight[Any]] = set()
        self.joined = 0
        """How many callers joined a flight that another had started."""
        in_child(self, Flights._land_elsewhere)

    def _land_elsewhere(self) -> None:
        """Forget all flights in a forked process: they continue only in the parent."""
        self.joinable.clear()
        self.under_way.clear()

    def __len__(self) -> int:
        return len(self.under_way)

    def join(self, share: Share, call: Call, source: Source[Any], copy: Copy) -> ThreadSeat | None:
        """A seat in this thread at the flight for *share*, started from *source* if there is none; None: do not
        share."""
        flight, _ = self._board((share.key, call.stream, None), share, call, ThreadFlight, source)
        return None if flight is None else ThreadSeat(flight, call, copy)

    def ajoin(self, share: Share, call: Call, source: Source[Awaitable[Any]], copy: Copy) -> TaskSeat | None:
        """Like :meth:`join`, under the running event loop."""
        loop = asyncio.get_running_loop()
        flight, new = self._board((share.key, call.stream, loop), share, call, TaskFlight, source)
        if flight is None:
            return None
        if new:
            flight.depart()
        return TaskSeat(flight, call, copy)

    def _board(
        self, key: Key, share: Share, call: Call, kind: Callable[..., AnyFlight], source: Source[Any]
    ) -> tuple[AnyFlight | None, bool]:
        """The flight that *call* boards (None: do not share), and whether it is new. All flights under a key are of one
        *kind*."""
        if key in inside.get():  # called by a hook of this same upstream: it would wait for itself
            return None, False
        with self.lock:  # not ``acquire()``: a Ctrl-C right after it would leave the lock held
            flight: Any = self.joinable.get(key)
            new = flight is None or not flight.admits(share)
            if flight is None or new:
                if share.max_flights is not None and len(self.under_way) >= share.max_flights:
                    return None, False
                flight = self.joinable[key] = kind(self, key, call, source)
                flight.landed = share.landed
                self.under_way.add(flight)
            else:
                self.joined += 1
                flight.board(call)
            return flight, new

    def seats(self) -> int:
        """How many callers have a seat at a flight under way."""
        with self.lock:
            return sum([flight.seats for flight in list(self.under_way)])

    def held_bytes(self) -> int:
        """Estimated bytes of the chunks of all flights under way."""
        with self.lock:
            return sum([flight.held_bytes() for flight in list(self.under_way)])

    def seal(self, key: Hashable) -> bool:
        """Close the flights of *key* to new callers and drop their ``landed`` callbacks; seats already taken remain.
        Returns whether any could be joined."""
        with self.lock:
            for flight in list(self.under_way):
                if flight.key[0] == key:
                    flight.landed = None
            sealed = [wide for wide in list(self.joinable) if wide[0] == key]
            for wide in sealed:
                self.joinable.pop(wide, None)
        return bool(sealed)

    def tasks(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[None]]:
        """The upstreams under way on *loop*."""
        mine = [f.task for f in list(self.under_way) if isinstance(f, TaskFlight) and f.loop is loop]
        return [task for task in mine if task is not None]

    def close(self) -> None:
        """Stop every upstream; its callers get ``UpstreamLost``."""
        for flight in list(self.under_way):
            flight.land(UpstreamLost("the kit was closed"))
            flight.stop()
