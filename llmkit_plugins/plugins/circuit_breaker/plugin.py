"""The plugin: its hooks only delegate."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from llmkit_plugins.call import Attempt, Call, Target
from llmkit_plugins.clock import SYSTEM_CLOCK
from llmkit_plugins.errors import CircuitOpen
from llmkit_plugins.events import CircuitChanged, CircuitsExhausted, Events
from llmkit_plugins.hookspecs import hookimpl
from llmkit_plugins.plugins.circuit_breaker.breaker import CircuitBreaker
from llmkit_plugins.plugins.circuit_breaker.config import CircuitBreakerConfig, CircuitBreakerPluginConfig
from llmkit_plugins.plugins.circuit_breaker.machine import Permit
from llmkit_plugins.plugins.circuit_breaker.states import State, Transition

if TYPE_CHECKING:
    from llmkit_plugins.kit import LLMKit

PROMPT_TOKENS = 16
"""Tokens added for the prompt in the time per token of a whole answer: else a short answer would look slow."""

Held = Sequence[tuple[CircuitBreaker, Permit]]


class CircuitBreakerPlugin:
    """Stops calling targets that fail or have become slow, and resumes once they have recovered.

    Each target has its own circuit, created on first use. A call with several targets skips those whose circuit is
    open; if all are open, those that close soonest are used anyway (``min_available``). A call with one target is
    refused with ``CircuitOpen`` while its circuit is open. *settings* are those of :class:`CircuitBreakerPluginConfig`.
    Raises ``ConfigError``.
    """

    Config = CircuitBreakerPluginConfig
    name = "circuit_breaker"

    def __init__(self, **settings: Any) -> None:
        self.config = CircuitBreakerPluginConfig(**settings)
        shared = {name: getattr(self.config, name) for name in CircuitBreakerConfig.model_fields}
        self._circuit_config = CircuitBreakerConfig(**shared)
        self._per_provider = self.config.per_provider
        self._breakers: dict[str, CircuitBreaker] = {}
        self._restricted: set[str] = set()
        """The circuits that not every call may pass, and some that just recovered. While it is empty, routing checks
        nothing else, however many targets there are."""
        self._clock = SYSTEM_CLOCK
        self._events: Events | None = None

    def attach(self, kit: LLMKit) -> None:
        """Tell time by the clock of *kit*, and tell its listeners what changes."""
        self._clock, self._events = kit.clock, kit.events

    def _now(self) -> float:
        return self._clock()

    @property
    def breakers(self) -> Mapping[str, CircuitBreaker]:
        """The circuits, by target name (``provider:NAME`` for those of providers)."""
        return dict(self._breakers)

    def breaker(self, name: str) -> CircuitBreaker:
        """The circuit called *name*, created if there is none."""
        breaker = self._breakers.get(name)
        if breaker is None:
            if len(self._breakers) >= self.config.max_circuits:
                self._forget_one()
            made = CircuitBreaker(name, self._circuit_config, clock=self._now, listeners=[self._changed])
            breaker = self._breakers.setdefault(name, made)
        return breaker

    @hookimpl
    def llmkit_route(self, call: Call, targets: Sequence[Target]) -> Sequence[Target]:
        if not self._restricted:
            return targets
        self._look_for_recovered()
        waits = [self._wait(target) for target in targets]
        if not any(waits):
            return targets
        usable = [target for target, wait in zip(targets, waits, strict=True) if not wait]
        if call.attempts or len(usable) >= max(1, self.config.min_available):
            return usable
        if len(targets) > 1 and (kept := self._least_bad(call, targets, waits)):
            return kept
        soonest = min(waits)
        raise CircuitOpen(targets[waits.index(soonest)].name, soonest if soonest < inf else None)

    @hookimpl
    def llmkit_pre_attempt(self, call: Call, attempt: Attempt) -> None:
        held: list[tuple[CircuitBreaker, Permit]] = []
        attempt.state[self] = held
        for breaker in self._guards(attempt.target):
            permit = breaker.acquire()
            if permit is None and attempt.target not in call.state.get(self, ()):
                raise CircuitOpen(breaker.name, breaker.retry_after())
            # A call that passes anyway holds no slot: without a permit it would release that of the oldest probe.
            held.append((breaker, permit or Permit(breaker.circuit.epoch)))
        if call.stream:
            attempt.on_first_chunk = [*(attempt.on_first_chunk or ()), functools.partial(_begun, attempt, held)]

    @hookimpl
    def llmkit_post_attempt(self, call: Call, attempt: Attempt) -> None:
        held: Held = attempt.state.pop(self, ())
        started, now = attempt.started, attempt.finished
        if attempt.outcome == "ok" and started is not None and now is not None:
            seconds = now - started - attempt.paused_seconds
            per_token = _per_token(attempt, started, seconds)
            parts = (seconds if per_token is None and not call.stream else None, None, per_token)
            for breaker, permit in held:
                breaker.circuit.heard(now, permit, seconds, parts)
        elif attempt.outcome == "error" and attempt.kind is not None:
            for breaker, permit in held:
                breaker.record_failure(attempt.kind, attempt.duration, retry_after=attempt.retry_after, permit=permit)
        else:  # never sent, abandoned by its caller, or our own bug: that says nothing about the provider
            for breaker, permit in held:
                breaker.release(permit)

    def _guards(self, target: Target) -> tuple[CircuitBreaker, ...]:
        guard = self._breakers.get(target.name) or self.breaker(target.name)
        return (guard, self.breaker(f"provider:{target.provider}")) if self._per_provider else (guard,)

    def _wait(self, target: Target) -> float:
        """Seconds until *target* may be called: 0 if now, infinite if its circuit was opened manually."""
        waits = [breaker.retry_after() for breaker in self._guards(target)]
        return max(inf if wait is None else wait for wait in waits)

    def _look_for_recovered(self) -> None:
        for name in tuple(self._restricted):
            breaker = self._breakers.get(name)
            if breaker is None or breaker.circuit.free is not None:
                self._restricted.discard(name)
                if breaker is not None and breaker.circuit.free is None:  # it opened right now
                    self._restricted.add(name)

    def _least_bad(self, call: Call, targets: Sequence[Target], waits: Sequence[float]) -> Sequence[Target]:
        """As many targets as must stay, soonest to close first; manually opened circuits stay open."""
        ranked = sorted(zip(waits, range(len(targets)), strict=True))
        kept = [targets[place] for wait, place in ranked if wait < inf][: self.config.min_available]
        call.state[self] = frozenset(kept)
        names = tuple(targets[place].name for wait, place in ranked[: len(kept)] if wait)
        if self._events is not None and names:
            self._events.publish(CircuitsExhausted(call, names))
        return kept

    def _changed(self, transition: Transition) -> None:
        if transition.after is State.OPEN:
            self._restricted.add(transition.name)
        reason = transition.reason
        why = f"{reason.statistic} {reason.value:.3g}, threshold {reason.threshold:.3g}" if reason else transition.event
        if self._events is not None:
            changed = CircuitChanged(transition.name, transition.before.value, transition.after.value, why)
            self._events.publish(changed)

    def _forget_one(self) -> None:
        for name, breaker in list(self._breakers.items()):
            if breaker.state is State.CLOSED:
                self._breakers.pop(name, None)
                return


def _begun(attempt: Attempt, held: Held) -> None:
    """A probe succeeds with its first chunk: no need to wait for the end of a long stream."""
    started, begun = attempt.started, attempt.first_chunk
    if started is not None and begun is not None:
        for breaker, permit in held:
            breaker.circuit.heard(begun, permit, None, (None, begun - started, None))


def _per_token(attempt: Attempt, started: float, seconds: float) -> float | None:
    """Seconds per output token, after the first chunk if there is one; None if the tokens are unknown."""
    tokens = attempt.usage.output_tokens if attempt.usage is not None else 0
    begun = attempt.first_chunk
    if begun is None:
        return seconds / (tokens + PROMPT_TOKENS) if tokens > 0 else None
    return (seconds - (begun - started)) / (tokens - 1) if tokens > 1 else None
