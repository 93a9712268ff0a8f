"""Observability: what happened to every call, as metrics."""

from __future__ import annotations

from llmkit_plugins.plugins.observability.config import ObservabilityConfig
from llmkit_plugins.plugins.observability.observability import Observability
from llmkit_plugins.plugins.observability.plugin import ObservabilityPlugin

__all__ = ["Observability", "ObservabilityConfig", "ObservabilityPlugin"]
