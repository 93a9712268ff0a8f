"""A provider to test against: a real HTTP server on loopback that speaks OpenAI's API, and fails as providers do when
told to.

``python -m llmkit_plugins.testing.fake_provider --port 8001 --latency 0.2`` runs one from a shell.
"""

from __future__ import annotations

try:
    import aiohttp as _aiohttp  # noqa: F401 - only to say what is missing
except ImportError as error:
    raise ImportError("the fake provider needs aiohttp: pip install 'llmkit-plugins[testing]'") from error

from llmkit_plugins.testing.fake_provider.behaviour import Behaviour
from llmkit_plugins.testing.fake_provider.faults import Fault
from llmkit_plugins.testing.fake_provider.latency import Constant, Latency, LogNormal, Uniform
from llmkit_plugins.testing.fake_provider.provider import FakeProvider
from llmkit_plugins.testing.fake_provider.stats import ProviderStats, SeenRequest

__all__ = [
    "Behaviour",
    "Constant",
    "FakeProvider",
    "Fault",
    "Latency",
    "LogNormal",
    "ProviderStats",
    "SeenRequest",
    "Uniform",
]
