"""For LiteLLM's proxy, in its config.yaml: ``litellm_settings: {callbacks: ["llmkit_litellm.proxy.handler"]}``.

The proxy imports this module before it makes its Router, and with it a kit is made of the settings that ``LLMKIT_CONFIG``
names and installed. Raises ``ConfigError`` at start-up where they are wrong.
"""

from __future__ import annotations

from litellm.integrations.custom_logger import CustomLogger

from llmkit_litellm.installing import install
from llmkit_plugins.kit import LLMKit


class LLMKitProxyHandler(CustomLogger):
    """What the proxy asks for by name. It does nothing itself: the calls go through the installed kit."""

    def __init__(self, kit: LLMKit) -> None:
        super().__init__()
        self.kit = kit


handler = LLMKitProxyHandler(LLMKit.from_config())
install(handler.kit)
