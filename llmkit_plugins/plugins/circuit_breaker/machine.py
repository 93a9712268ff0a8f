"""The state machine of a circuit: which calls may pass, how long it stays open, and how traffic returns."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from math import inf

from llmkit_plugins.forks import new_rlock
from llmkit_plugins.plugins.circuit_breaker.config import CircuitBreakerConfig
from llmkit_plugins.plugins.circuit_breaker.states import MOVES, Event, Listener, Reason, State, Transition

log = logging.getLogger(__name__)

MOST_DOUBLINGS = 32


class Permit:
    """Permission to make one call. Record the outcome with it, or release it.

    While the circuit is simply closed, all callers get the same permit. Otherwise it is leased: if nothing is recorded,
    its slot is freed after ``probe_lease_seconds``.
    """

    __slots__ = ("answered", "epoch", "expires")

    def __init__(self, epoch: int, expires: float = inf) -> None:
        self.epoch = epoch
        """How often the circuit had opened before. A permit from before the last time moves nothing any more."""
        self.expires = expires
        self.answered = False
        """Whether it has counted as a good probe: a stream's first chunk and its end are one."""


class Machine:
    """CLOSED, OPEN and HALF_OPEN, as in the table ``MOVES``.

    The lock is held for a few attribute writes: no foreign code runs under it, and listeners are called after it. It is
    reentrant, because the garbage collector may end a call, and return its permit, anywhere in here.
    """

    __slots__ = (
        "_config",
        "_doublings",
        "_leases",
        "_limit",
        "_lock",
        "_name",
        "_ramp_ends",
        "_since",
        "_successes",
        "_telling",
        "_until",
        "_untold",
        "epoch",
        "free",
        "listeners",
        "state",
    )

    def __init__(self, name: str, config: CircuitBreakerConfig, now: float, listeners: Iterable[Listener]) -> None:
        self._name, self._config = name, config
        self._lock = new_rlock()
        self.listeners = list(listeners)
        self._untold: tuple[Transition, ...] = ()
        self._telling = False
        self._leases: dict[Permit, None] = {}
        self._doublings = self._successes = self._limit = 0
        self._since = now
        self._until = self._ramp_ends = inf
        self.state = State.CLOSED
        self.epoch = 0
        self.free: Permit | None = Permit(0)
        """The permit for every call while the circuit is simply closed: all the common case reads. Else None."""

    def state_at(self, now: float) -> State:
        """The state, after any change due to time alone."""
        if self.free is not None:
            return State.CLOSED
        with self._lock:
            self._look_at_clock(now)
            state = self.state
        self._tell()
        return state

    def admit(self, now: float) -> Permit | None:
        """A permit, or None if there is none now."""
        with self._lock:
            self._look_at_clock(now)
            permit = self.free
            if permit is None and self._has_place(now):
                permit = Permit(self.epoch, now + self._config.probe_lease_seconds)
                self._leases[permit] = None
        self._tell()
        return permit

    def wait(self, now: float) -> float | None:
        """At most how many seconds until a permit is available: 0 if one is now, None if unknown."""
        with self._lock:
            self._look_at_clock(now)
            if self.free is not None or self._has_place(now):
                wait: float | None = 0.0
            elif self.state is State.OPEN:
                wait = None if self._until == inf else self._until - now
            else:
                wait = min(next(iter(self._leases)).expires, self._ramp_ends) - now
        self._tell()
        return wait

    def release(self, permit: Permit | None) -> None:
        """Give back the place of *permit*; None stands for the oldest."""
        if self.free is None:
            with self._lock:
                self._take_back(permit)

    def succeeded(self, permit: Permit | None, now: float) -> None:
        """A probe succeeded, or a call of the ramp did."""
        if self.free is not None:
            return
        with self._lock:
            self._take_back(permit)
            if permit is None or (permit.epoch == self.epoch and not permit.answered):
                if permit is not None:
                    permit.answered = True
                self._advance(now)
        self._tell()

    def open(self, epoch: int, now: float, reason: Reason, avoid_until: float | None, jitter: float) -> None:
        """Open, unless the circuit has opened since *epoch*: for base · 2^k seconds, less *jitter* (0 … 1) times half
        of that, and at least until *avoid_until*."""
        with self._lock:
            event: Event = "tripped" if self.state is State.CLOSED else "probe_failed"
            if epoch == self.epoch and (self.state, event) in MOVES:
                told = 0.0 if avoid_until is None else avoid_until - now
                # Capacity is not health: obey what the provider said, and do not stay open longer next time.
                obeys = reason.statistic == "rate_limit" and told > 0
                stays = told if obeys else max(told, self._grown(now) * (1 - jitter / 2))
                self._move(event, now, reason, now + stays)
        self._tell()

    def extend(self, until: float) -> None:
        """If the circuit is open, keep it open at least until *until*."""
        with self._lock:
            if self.state is State.OPEN:
                self._until = max(self._until, until)

    def force(self, event: Event, now: float, until: float = inf) -> None:
        """Make a move that was decided manually."""
        with self._lock:
            if event == "reset":
                self._doublings = 0
                self.epoch += 1
            self._move(event, now, None, until)
        self._tell()

    def _look_at_clock(self, now: float) -> None:
        if self.state is State.OPEN and now >= self._until:
            self._move("waited", now, Reason("open_seconds", now - self._since, self._until - self._since))
        elif self.state is State.CLOSED and self.free is None and now >= self._ramp_ends:
            self._end_ramp()

    def _move(self, event: Event, now: float, reason: Reason | None, until: float = inf) -> None:
        before, after = self.state, MOVES[self.state, event]
        if after is State.OPEN:
            self.free, self._leases = None, {}
            self._until = max(until, self._until) if before is State.OPEN else until
            self.epoch += 1
        elif after is State.HALF_OPEN:
            self._successes, self._limit, self._ramp_ends = 0, self._config.half_open_requests, inf
        else:
            self._close(event, now)
        self.state, self._since = after, now
        if after is not before:
            stays = until - now if after is State.OPEN and until < inf else None
            self._untold += (Transition(self._name, before, after, event, reason, now, stays),)

    def _close(self, event: Event, now: float) -> None:
        self._recovered(now)
        self._ramp_ends = now + self._config.ramp_seconds
        if event != "probes_ok" or not self._config.ramp_seconds:
            self._end_ramp()

    def _end_ramp(self) -> None:
        self._leases = {}
        self.free = Permit(self.epoch)

    def _grown(self, now: float) -> float:
        """Seconds to stay open: doubled each time, minus one doubling per ``open_seconds`` of health in between."""
        base = self._config.open_seconds
        if self.state is State.CLOSED:
            self._doublings = max(0, self._doublings - int((now - self._since) / base))
        seconds = min(self._config.max_open_seconds, base * 2.0**self._doublings)
        self._doublings = min(self._doublings + 1, MOST_DOUBLINGS)
        return seconds

    def _has_place(self, now: float) -> bool:
        if self.state is State.OPEN:
            return False
        leases = self._leases
        while leases and (oldest := next(iter(leases))).expires <= now:
            leases.pop(oldest, None)
        return len(leases) < self._limit

    def _take_back(self, permit: Permit | None) -> None:
        if permit is None:
            permit = next(iter(self._leases), None)
        if permit is not None:
            self._leases.pop(permit, None)

    def _advance(self, now: float) -> None:
        if self.state is State.CLOSED:
            self._limit += 1
        elif self.state is State.HALF_OPEN:
            self._successes += 1
            threshold = self._config.success_threshold
            if self._successes >= threshold:
                self._move("probes_ok", now, Reason("successful_probes", self._successes, threshold))

    def _recovered(self, now: float) -> None:
        """Called when the circuit is about to close. (Under the lock, so that no late failure reopens it.)"""

    def _tell(self) -> None:
        """Notify the listeners, in order. A thread already notifying (perhaps this one) delivers this too."""
        while self._untold:
            with self._lock:
                if self._telling or not self._untold:
                    return
                self._telling, transition, self._untold = True, self._untold[0], self._untold[1:]
            try:
                self._tell_all(transition)
            finally:
                self._telling = False

    def _tell_all(self, transition: Transition) -> None:
        for listener in tuple(self.listeners):
            try:
                listener(transition)
            except Exception:
                log.exception("A listener of the circuit %r failed; the call goes on", self._name)
