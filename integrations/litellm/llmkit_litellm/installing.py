"""A kit around everything that LiteLLM does in this process."""

from __future__ import annotations

from llmkit_litellm.limits import limit_deployments
from llmkit_litellm.router import ROUTERS
from llmkit_litellm.sdk import SDK, Installed
from llmkit_plugins.errors import ConfigError
from llmkit_plugins.forks import new_lock
from llmkit_plugins.given import given_kit
from llmkit_plugins.kit import LLMKit

_lock = new_lock()


def install(kit: LLMKit) -> None:
    """Route ``litellm.completion``, ``text_completion``, ``embedding`` and ``responses``, sync and async, and those of
    every ``litellm.Router``, through *kit*.

    Existing Routers are covered, but not a ``from litellm import completion`` that ran before. Installing the same kit
    again changes nothing. Raises ``ConfigError`` for anything that is not a kit, and if another kit is installed.
    """
    given_kit(kit)
    with _lock:
        if Installed.kit is kit:
            return
        if Installed.kit is not None:
            raise ConfigError("another kit is installed", key="kit", right="call uninstall() before")
        limit_deployments(kit)
        Installed.kit = kit
        SDK.hold()
        ROUTERS.hold()


def uninstall() -> None:
    """Undo ``install``; without one it does nothing.

    Calls in flight end as they began, but whatever a Router still sends for them bypasses the plugins.
    """
    with _lock:
        if Installed.kit is None:
            return
        Installed.kit = None
        ROUTERS.release()
        SDK.release()
