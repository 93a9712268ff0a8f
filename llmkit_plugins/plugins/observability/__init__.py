"""Observability: what happened to every call, as metrics, spans and logs."""

from __future__ import annotations

from llmkit_plugins.plugins.observability.config import ObservabilityConfig
from llmkit_plugins.plugins.observability.logs import JSONFormatter
from llmkit_plugins.plugins.observability.metrics import Metrics
from llmkit_plugins.plugins.observability.observability import Observability
from llmkit_plugins.plugins.observability.plugin import ObservabilityPlugin

__all__ = ["JSONFormatter", "Metrics", "Observability", "ObservabilityConfig", "ObservabilityPlugin"]
