"""LiteLLM's SDK and Router with the plugins around every call."""

from __future__ import annotations

from llmkit_litellm.installing import install, uninstall
from llmkit_litellm.logger import LLMKitLogger
from llmkit_litellm.router import LLMKitRouter

__all__ = ["LLMKitLogger", "LLMKitRouter", "install", "uninstall"]
