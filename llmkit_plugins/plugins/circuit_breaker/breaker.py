"""The circuit breaker: a guard around the calls to one target."""

from __future__ import annotations

import functools
import random as system_random
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Self

from llmkit_plugins.clock import SYSTEM_CLOCK, Clock
from llmkit_plugins.errors import ConfigError
from llmkit_plugins.plugins.circuit_breaker.circuit import Circuit
from llmkit_plugins.plugins.circuit_breaker.config import CircuitBreakerConfig
from llmkit_plugins.plugins.circuit_breaker.failures import IsFailure, is_failure, kind_that_counts, retry_after_of
from llmkit_plugins.plugins.circuit_breaker.guard import Guard
from llmkit_plugins.plugins.circuit_breaker.health import Health, health_of
from llmkit_plugins.plugins.circuit_breaker.machine import Permit
from llmkit_plugins.plugins.circuit_breaker.states import Listener, State


def _check(name: str, seconds: float | None) -> None:
    if seconds is not None and not 0 <= seconds < inf:
        raise ConfigError(f"{seconds!r} is not a time", key=name, right="0 or more seconds")


@functools.lru_cache(maxsize=128)
def _shared(config: CircuitBreakerConfig) -> CircuitBreakerConfig:
    """One object for all equal settings, which would be half of a breaker's memory."""
    return config


class CircuitBreaker(Guard):
    """Stops calls to a target that fails or has become slow, and lets them through again, gradually, once it has
    recovered.

    It opens on consecutive failures, a statistically significant failure rate, increased latency, slow calls (if
    ``slow_call_seconds`` is set) and persistent 429s. It stays open for ``open_seconds``, doubled each time it reopens
    up to ``max_open_seconds`` and shortened by a random part of up to half, but at least for ``Retry-After``. Then up
    to ``half_open_requests`` probes may be in flight at once; ``success_threshold`` successful ones close it, and one
    failure reopens it.

    Settings are given by name (``z_score=2.5, open_seconds=60.0`` …, see ``CircuitBreakerConfig``) or as *config*.
    *random* returns numbers from 0 to 1; *is_failure* decides which errors without a ``kind`` count; *listeners* are
    called with each ``Transition``. Raises ``ConfigError`` for wrong settings, invalid times and unknown kinds of
    errors.

    Any number of threads and tasks may share a breaker: no call runs under a lock, and an answer of a closed circuit
    takes none. Statistics are single attribute writes, so two threads that collide there may lose one answer, never
    more. A lock is held for a few microseconds when a call fails, and while the circuit is not simply closed.
    """

    __slots__ = ("config",)

    def __init__(
        self,
        name: str,
        config: CircuitBreakerConfig | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        random: Callable[[], float] = system_random.random,
        is_failure: IsFailure = is_failure,
        listeners: Iterable[Listener] = (),
        **settings: Any,
    ) -> None:
        if config is not None and settings:
            raise ConfigError("is given beside a config", key=next(iter(settings)), right="one of the two")
        self.config = _shared(config or CircuitBreakerConfig(**settings))
        super().__init__(name, Circuit(name, self.config, clock(), random, listeners), clock, is_failure)

    @classmethod
    def aggressive(cls, name: str, **options: Any) -> Self:
        """Opens early and tries again soon: z-score 1.5, 10 s."""
        return cls(name, **{"preset": "aggressive", **options})

    @classmethod
    def production(cls, name: str, **options: Any) -> Self:
        """The default: z-score 2.5, 60 s."""
        return cls(name, **{"preset": "production", **options})

    @classmethod
    def conservative(cls, name: str, **options: Any) -> Self:
        """Opens late and for long: z-score 3.0, 120 s."""
        return cls(name, **{"preset": "conservative", **options})

    @property
    def state(self) -> State:
        """The state of the circuit. Once its open time is over it is half-open, even if there has been no call."""
        return self.circuit.state_at(self._clock())

    @property
    def listeners(self) -> list[Listener]:
        """Called with each ``Transition``, in order and under no lock. Exceptions they raise are only logged."""
        return self.circuit.listeners

    @property
    def available(self) -> bool:
        """Whether ``acquire`` would give a permit now."""
        return self.retry_after() == 0.0

    def retry_after(self) -> float | None:
        """Seconds until a call may pass, at most: 0 if one may now, None if the circuit was opened manually."""
        circuit = self.circuit
        return 0.0 if circuit.free is not None else circuit.wait(self._clock())

    def health(self) -> Health:
        """Statistics of the last ``window_seconds``; the counts are reset when the circuit closes."""
        return health_of(self.circuit.detector, self._clock())

    def acquire(self) -> Permit | None:
        """Permission to make one call, or None: not now. Never raises, never waits.

        Record the outcome of the call with the permit, or release the permit.
        """
        circuit = self.circuit
        return circuit.free or circuit.admit(self._clock())

    def release(self, permit: Permit | None = None) -> None:
        """The call says nothing about the target: it was cancelled, or never sent."""
        self.circuit.release(permit)

    def record_success(
        self,
        seconds: float,
        *,
        time_to_first_chunk: float | None = None,
        seconds_per_output_token: float | None = None,
        permit: Permit | None = None,
    ) -> None:
        """A call was answered in *seconds*; this is compared with earlier ones where neither of the other two is known.

        Without *permit* it counts as an answer to the oldest probe, if the circuit is half-open.
        """
        _check("seconds", seconds)
        if time_to_first_chunk is None and seconds_per_output_token is None:
            self.circuit.answered(self._clock(), permit, seconds)
            return
        _check("time_to_first_chunk", time_to_first_chunk)
        _check("seconds_per_output_token", seconds_per_output_token)
        self.circuit.heard(self._clock(), permit, seconds, (None, time_to_first_chunk, seconds_per_output_token))

    def record_first_chunk(self, seconds: float, *, permit: Permit | None = None) -> None:
        """A stream began *seconds* after it was asked for, and a probe is good with that. ``record_stream_end`` or
        ``record_failure`` must follow: they count the call."""
        _check("seconds", seconds)
        self.circuit.heard(self._clock(), permit, None, (None, seconds, None))

    def record_stream_end(
        self, seconds: float, *, seconds_per_output_token: float | None = None, permit: Permit | None = None
    ) -> None:
        """A stream whose first chunk was recorded ended well, *seconds* after it was asked for."""
        _check("seconds", seconds)
        _check("seconds_per_output_token", seconds_per_output_token)
        self.circuit.heard(self._clock(), permit, seconds, (None, None, seconds_per_output_token))

    def record_failure(
        self,
        error: BaseException | str,
        seconds: float | None = None,
        *,
        retry_after: float | None = None,
        permit: Permit | None = None,
    ) -> None:
        """A call failed with *error*, or an error of that kind (``timeout``, ``server`` …), after *seconds*.

        Only ``HEALTH_KINDS`` count; ``rate_limit`` counts when it persists; others only give the permit back.
        *retry_after* is what the provider asked for, else the error's own attribute.
        """
        _check("seconds", seconds)
        _check("retry_after", retry_after)
        if kind := kind_that_counts(error, self._is_failure):
            asked = retry_after_of(error) if retry_after is None else retry_after
            self.circuit.failed(self._clock(), permit, kind, seconds, asked)
        else:
            self.release(permit)

    def force_open(self, seconds: float | None = None) -> None:
        """Open immediately, for *seconds* or until ``force_closed`` or ``reset``."""
        _check("seconds", seconds)
        now = self._clock()
        self.circuit.force("forced_open", now, inf if seconds is None else now + seconds)

    def force_closed(self) -> None:
        """Close now, all at once. What is usual and how long it was open count on; it opens again when it must."""
        self.circuit.force("forced_closed", self._clock())

    def reset(self) -> None:
        """Close, and forget everything. Calls in flight no longer count."""
        self.circuit.reset(self._clock())
