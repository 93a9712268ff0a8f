"""The circuit breaker: adaptive, statistical and self-recovering."""

from __future__ import annotations

from llmkit_plugins.plugins.circuit_breaker.breaker import CircuitBreaker
from llmkit_plugins.plugins.circuit_breaker.config import CircuitBreakerConfig, CircuitBreakerPluginConfig
from llmkit_plugins.plugins.circuit_breaker.health import Health
from llmkit_plugins.plugins.circuit_breaker.machine import Permit
from llmkit_plugins.plugins.circuit_breaker.plugin import CircuitBreakerPlugin
from llmkit_plugins.plugins.circuit_breaker.states import MOVES, Listener, Reason, State, Transition

__all__ = [
    "MOVES",
    "CircuitBreaker",
    "CircuitBreakerConfig",
    "CircuitBreakerPlugin",
    "CircuitBreakerPluginConfig",
    "Health",
    "Listener",
    "Permit",
    "Reason",
    "State",
    "Transition",
]
