"""For LiteLLM's proxy, in its config.yaml: ``litellm_settings: {callbacks: ["llmkit_litellm.proxy.handler"]}``.

The proxy imports ``handler`` before it creates its Router. That creates a kit from the settings that ``LLMKIT_CONFIG``
names, and installs it; the kit is closed when the proxy stops. Raises ``ConfigError`` at start-up if the settings are
wrong.
"""

from __future__ import annotations

from functools import cache

from litellm.integrations.custom_logger import CustomLogger

from llmkit_litellm import compat
from llmkit_litellm.installing import install, uninstall
from llmkit_plugins.kit import LLMKit


class LLMKitProxyHandler(CustomLogger):
    """The object the proxy imports by name. It does nothing itself: calls go through the installed kit."""

    def __init__(self, kit: LLMKit) -> None:
        super().__init__()
        self.kit = kit

    async def close(self) -> None:
        """Close the kit; later calls bypass it."""
        uninstall()
        await self.kit.aclose()


@cache
def _handler() -> LLMKitProxyHandler:
    made = LLMKitProxyHandler(LLMKit.from_config())
    install(made.kit)
    compat.at_proxy_shutdown(made.close)
    return made


def __getattr__(name: str) -> LLMKitProxyHandler:
    if name != "handler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _handler()
