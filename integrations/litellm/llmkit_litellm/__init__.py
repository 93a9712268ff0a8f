"""LiteLLM's SDK and Router with the plugins around every call."""

from __future__ import annotations

try:
    import litellm as _litellm  # noqa: F401 - only to say what is missing
except ModuleNotFoundError as error:
    if error.name != "litellm":
        raise
    raise ImportError("llmkit_litellm needs LiteLLM: pip install 'llmkit-plugins[litellm]'") from error

from llmkit_litellm.installing import install, uninstall
from llmkit_litellm.logger import LLMKitLogger
from llmkit_litellm.router import LLMKitRouter

__all__ = ["LLMKitLogger", "LLMKitRouter", "install", "uninstall"]
