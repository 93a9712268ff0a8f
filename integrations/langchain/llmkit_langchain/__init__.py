"""llmkit-plugins under LangChain: a chat model over several, and callback handlers for any chain, agent or graph."""

from __future__ import annotations

from llmkit_langchain.backend import ChatBackend, LangChainBackend
from llmkit_langchain.chat_model import ChatLLMKit
from llmkit_langchain.context import llmkit_context
from llmkit_langchain.handlers import AsyncLLMKitCallbackHandler, LLMKitCallbackHandler
from llmkit_langchain.rate_limiter import LLMKitRateLimiter

__all__ = [
    "AsyncLLMKitCallbackHandler",
    "ChatBackend",
    "ChatLLMKit",
    "LLMKitCallbackHandler",
    "LLMKitRateLimiter",
    "LangChainBackend",
    "llmkit_context",
]
