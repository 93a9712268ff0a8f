"""Five independent plugins around LLM calls, and the hooks that anybody's own plugin uses too."""

from __future__ import annotations

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
from llmkit_plugins.steps import Answer, Ask, Share, Wait

__all__ = [
    "Answer",
    "Ask",
    "Attempt",
    "Backend",
    "Call",
    "CircuitOpen",
    "ConfigError",
    "EmptyAnswer",
    "ForeignCancel",
    "Handle",
    "LLMKit",
    "LLMKitError",
    "NoTarget",
    "PluginFailed",
    "ProviderFailure",
    "RateLimited",
    "Refused",
    "Response",
    "Share",
    "Target",
    "TimedOut",
    "UpstreamLost",
    "Usage",
    "Wait",
    "hookimpl",
]
