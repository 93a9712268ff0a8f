"""One upstream, many callers: which upstreams are under way, and who may join which."""

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
    """What is under way, by key. Streamed and whole answers, each event loop, and threads are kept apart."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = new_rlock()  # re-entrant: a stream that is collected as garbage leaves at any allocation
        self.joinable: dict[Key, Flight[Any]] = {}
        self.under_way: set[Flight[Any]] = set()
        self.joined = 0
        """How many callers took a seat at a flight that another had started."""
        in_child(self, Flights._land_elsewhere)

    def _land_elsewhere(self) -> None:
        """This is a forked process: what was under way goes on in its parent alone."""
        self.joinable.clear()
        self.under_way.clear()

    def __len__(self) -> int:
        return len(self.under_way)

    def join(self, share: Share, call: Call, source: Source[Any], copy: Copy) -> ThreadSeat | None:
        """A seat in this thread at the flight for *share*, which starts from *source* if there is none; None: go
        alone."""
        flight, _ = self._board((share.key, call.stream, None), share, call, ThreadFlight, source)
        return None if flight is None else ThreadSeat(flight, call, copy)

    def ajoin(self, share: Share, call: Call, source: Source[Awaitable[Any]], copy: Copy) -> TaskSeat | None:
        """The same under the running event loop."""
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
        """The flight that *call* is on, and whether it is new; None: it goes alone. Under one key all are of one
        *kind*."""
        if key in inside.get():  # a hook of this very upstream is calling: it would wait for itself
            return None, False
        with self.lock:  # and not its ``acquire``, after which Ctrl-C could leave it held for ever
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
        """How many callers sit at what is under way."""
        with self.lock:
            return sum([flight.seats for flight in list(self.under_way)])

    def held_bytes(self) -> int:
        """Bytes of the chunks of what is under way, by estimate."""
        with self.lock:
            return sum([flight.held_bytes() for flight in list(self.under_way)])

    def seal(self, key: Hashable) -> bool:
        """Nobody joins the flights of *key* any more, and nobody is told when they land; who has a seat keeps it.
        Whether there was one to join."""
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
        """Stop every upstream; their callers get ``UpstreamLost``."""
        for flight in list(self.under_way):
            flight.land(UpstreamLost("the kit was closed"))
            flight.stop()
