"""One circuit: what each outcome does in each state."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmkit_plugins.plugins.circuit_breaker.config import CircuitBreakerConfig
from llmkit_plugins.plugins.circuit_breaker.health_detector import HealthDetector
from llmkit_plugins.plugins.circuit_breaker.latencies import Parts
from llmkit_plugins.plugins.circuit_breaker.machine import Machine, Permit
from llmkit_plugins.plugins.circuit_breaker.states import Listener, Reason, State


class Circuit(Machine):
    """The machine with a detector: outcomes go to the detector, whose findings move the machine. Callers pass the time.

    While the circuit is simply closed, an outcome costs only the statistics and one comparison.
    """

    __slots__ = ("_random", "detector")

    def __init__(
        self,
        name: str,
        config: CircuitBreakerConfig,
        now: float,
        random: Callable[[], float],
        listeners: Iterable[Listener],
    ) -> None:
        super().__init__(name, config, now, listeners)
        self._random = random
        self.detector = HealthDetector(config, now)

    def answered(self, now: float, permit: Permit | None, seconds: float) -> None:
        """Handle an answered call of which only the total latency is known."""
        free = self.free
        if free is None or (permit is not free and permit is not None):
            self._heard_otherwise(now, permit, seconds, (seconds, None, None))
        elif reason := self.detector.answered(now, seconds):
            self.open_for(reason, now, free.epoch)

    def heard(self, now: float, permit: Permit | None, seconds: float | None, parts: Parts) -> None:
        """Handle an answered call, or (if *seconds* is None) the start of an answer."""
        free = self.free
        if free is None or (permit is not free and permit is not None):
            self._heard_otherwise(now, permit, seconds, parts)
        elif reason := self.detector.heard(now, seconds, parts):
            self.open_for(reason, now, free.epoch)

    def _heard_otherwise(self, now: float, permit: Permit | None, seconds: float | None, parts: Parts) -> None:
        """The same while the circuit is not simply closed, or with an earlier permit."""
        state, epoch = self.state_at(now), self.epoch
        if permit is not None and permit.epoch != epoch:
            return
        if state is State.OPEN:
            if seconds is not None:
                self.detector.count(now, seconds)
            return
        look = self.detector.probed if state is State.HALF_OPEN else self.detector.heard
        if reason := look(now, seconds, parts):
            self.open_for(reason, now, epoch)
        else:
            self.succeeded(permit, now)

    def failed(
        self, now: float, permit: Permit | None, kind: str, seconds: float | None, retry_after: float | None
    ) -> None:
        """Handle a call that failed with an error of a kind that counts."""
        state, epoch = self.state_at(now), self.epoch
        if retry_after is not None:
            self.extend(now + retry_after)
        if permit is not None and permit.epoch != epoch:
            return
        if retry_after is not None:
            self.detector.avoid(now + retry_after)
        if reason := self._lost(state, now, kind, seconds):
            self.open_for(reason, now, epoch)
        else:
            self.release(permit)

    def open_for(self, reason: Reason, now: float, epoch: int) -> None:
        """Open, or reopen, because of *reason*."""
        self.open(epoch, now, reason, self.detector.avoid_until, self._random())

    def reset(self, now: float) -> None:
        """Close, and forget everything."""
        self.detector.reset(now)
        self.force("reset", now)

    def _lost(self, state: State, now: float, kind: str, seconds: float | None) -> Reason | None:
        """The reason to open if this failure is one too many, else None."""
        limited = kind == "rate_limit"
        if state is State.CLOSED and limited:
            return self.detector.limited()
        if state is State.CLOSED:
            return self.detector.failed(now, seconds, timed_out=kind == "timeout")
        if not limited:
            self.detector.window.add(now, calls=1, failures=1)
        return Reason("rate_limit" if limited else "failed_probes", 1, 1) if state is State.HALF_OPEN else None

    def _recovered(self, now: float) -> None:
        self.detector.recovered(now)
