"""Tools for testing plugins and integrations: a manual clock, providers to test against, the laws as a test class.

``PluginConformance`` needs pytest and ``FakeProvider`` aiohttp (``pip install 'llmkit-plugins[testing]'``); each is
imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmkit_plugins.testing.cancelling import CancelAt
from llmkit_plugins.testing.clock import ManualClock
from llmkit_plugins.testing.driving import MODES, adrive, drive
from llmkit_plugins.testing.recorder import Recorder
from llmkit_plugins.testing.scripted import Failure, Last, Pause, ScriptedBackend

if TYPE_CHECKING:
    from llmkit_plugins.testing.conformance import PluginConformance
    from llmkit_plugins.testing.fake_provider import FakeProvider

__all__ = [
    "MODES",
    "CancelAt",
    "Failure",
    "FakeProvider",
    "Last",
    "ManualClock",
    "Pause",
    "PluginConformance",
    "Recorder",
    "ScriptedBackend",
    "adrive",
    "drive",
]

_ON_DEMAND = {"FakeProvider": "fake_provider", "PluginConformance": "conformance"}


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ON_DEMAND[name]}"), name)
