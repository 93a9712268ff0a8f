"""The smart router: learns latency, cost and reliability, decides in microseconds, and explains itself."""

from __future__ import annotations

from llmkit_plugins.plugins.router.config import RouterConfig, Weights
from llmkit_plugins.plugins.router.decision import Decision
from llmkit_plugins.plugins.router.explanation import Explanation, Row
from llmkit_plugins.plugins.router.plugin import RouterPlugin
from llmkit_plugins.plugins.router.router import SmartRouter
from llmkit_plugins.plugins.router.scoring import Prediction
from llmkit_plugins.plugins.router.track import TargetStats

__all__ = [
    "Decision",
    "Explanation",
    "Prediction",
    "RouterConfig",
    "RouterPlugin",
    "Row",
    "SmartRouter",
    "TargetStats",
    "Weights",
]
