"""llmkit-plugins under LangChain: a chat model over several, and callback handlers for any chain, agent or graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import langchain_core as _langchain_core  # noqa: F401 - only to say what is missing
except ModuleNotFoundError as error:
    if error.name != "langchain_core":
        raise
    raise ImportError("llmkit_langchain needs LangChain: pip install 'llmkit-plugins[langchain]'") from error

from llmkit_langchain.backend import ChatBackend, LangChainBackend
from llmkit_langchain.chat_model import ChatLLMKit
from llmkit_langchain.context import llmkit_context
from llmkit_langchain.handlers import AsyncLLMKitCallbackHandler, LLMKitCallbackHandler
from llmkit_langchain.rate_limiter import LLMKitRateLimiter

if TYPE_CHECKING:
    from llmkit_langchain.middleware import LLMKitMiddleware

__all__ = [
    "AsyncLLMKitCallbackHandler",
    "ChatBackend",
    "ChatLLMKit",
    "LLMKitCallbackHandler",
    "LLMKitMiddleware",
    "LLMKitRateLimiter",
    "LangChainBackend",
    "llmkit_context",
]


def __getattr__(name: str) -> Any:
    """Import ``LLMKitMiddleware`` on first use: only it needs ``langchain`` itself."""
    if name != "LLMKitMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmkit_langchain.middleware import LLMKitMiddleware

    return LLMKitMiddleware
