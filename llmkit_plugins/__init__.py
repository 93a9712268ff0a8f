"""Five independent plugins for LLM calls, and the hooks they share with third-party plugins."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmkit_plugins.backend import Backend
from llmkit_plugins.call import Attempt, Call, Response, Target, Usage
from llmkit_plugins.engine.handle import Handle
from llmkit_plugins.errors import (
    CircuitOpen,
    ConfigError,
    EmptyAnswer,
    ForeignCancel,
    LLMKitError,
    NoTarget,
    PluginFailed,
    ProviderFailure,
    RateLimited,
    Refused,
    TimedOut,
    UpstreamLost,
)
from llmkit_plugins.hookspecs import hookimpl
from llmkit_plugins.kit import LLMKit
from llmkit_plugins.steps import Answer, Ask, Prefer, Share, Wait

if TYPE_CHECKING:
    from llmkit_plugins.plugins.circuit_breaker import CircuitBreaker, CircuitBreakerPlugin
    from llmkit_plugins.plugins.multiplexer import MultiplexerPlugin, StreamingMultiplexer
    from llmkit_plugins.plugins.observability import Observability, ObservabilityPlugin
    from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiter, RateLimiterPlugin, TokenBucket
    from llmkit_plugins.plugins.router import RouterPlugin, SmartRouter
    from llmkit_plugins.settings import ConfigErrors, Settings

__all__ = [
    "Answer",
    "Ask",
    "Attempt",
    "Backend",
    "Call",
    "CircuitBreaker",
    "CircuitBreakerPlugin",
    "CircuitOpen",
    "ConfigError",
    "ConfigErrors",
    "EmptyAnswer",
    "ForeignCancel",
    "Handle",
    "LLMKit",
    "LLMKitError",
    "Limit",
    "MultiplexerPlugin",
    "NoTarget",
    "Observability",
    "ObservabilityPlugin",
    "PluginFailed",
    "Prefer",
    "ProviderFailure",
    "RateLimited",
    "RateLimiter",
    "RateLimiterPlugin",
    "Refused",
    "Response",
    "RouterPlugin",
    "Settings",
    "Share",
    "SmartRouter",
    "StreamingMultiplexer",
    "Target",
    "TimedOut",
    "TokenBucket",
    "UpstreamLost",
    "Usage",
    "Wait",
    "hookimpl",
]

# Imported on first access: using one plugin does not load what the others need.
_ON_DEMAND = {
    "plugins.circuit_breaker": ("CircuitBreaker", "CircuitBreakerPlugin"),
    "plugins.multiplexer": ("MultiplexerPlugin", "StreamingMultiplexer"),
    "plugins.observability": ("Observability", "ObservabilityPlugin"),
    "plugins.rate_limiter": ("Limit", "RateLimiter", "RateLimiterPlugin", "TokenBucket"),
    "plugins.router": ("RouterPlugin", "SmartRouter"),
    "settings": ("ConfigErrors", "Settings"),
}
_PLACES = {name: f"{__name__}.{module}" for module, names in _ON_DEMAND.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
