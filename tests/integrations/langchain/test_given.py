"""What is no kit, or no limiter, is refused where it is handed over."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from llmkit_langchain import (
    AsyncLLMKitCallbackHandler,
    ChatLLMKit,
    LLMKitCallbackHandler,
    LLMKitMiddleware,
    LLMKitRateLimiter,
    llmkit_context,
)

from llmkit_plugins import ConfigError, Limit, LLMKit, RateLimiterPlugin


def entered(kit: Any) -> None:
    with llmkit_context(kit):
        pass


def routed(kit: Any) -> ChatLLMKit:
    return ChatLLMKit({"a": FakeListChatModel(responses=["x"])}, kit)


TAKES_A_KIT = (LLMKitCallbackHandler, AsyncLLMKitCallbackHandler, LLMKitMiddleware, routed, entered)


@pytest.mark.parametrize("takes", TAKES_A_KIT, ids=lambda takes: takes.__name__)
@pytest.mark.parametrize(
    ("wrong", "called"), [(None, "None"), (LLMKit, "the class LLMKit"), ({"key": "sk-secret"}, "dict")]
)
def test_what_is_no_kit(wrong, called, takes):
    """The error says what it is and what would be right, and shows nothing of it."""
    with pytest.raises(ConfigError) as caught:
        takes(wrong)
    assert str(caught.value) == f"kit: {called} is no LLMKit (LLMKit([...]) or LLMKit.from_config())"


def test_what_is_no_limiter():
    """A plugin is none, but has one."""
    plugin = RateLimiterPlugin(limits=[Limit(requests="1/s")])
    with pytest.raises(ConfigError, match=r"^limiter: RateLimiterPlugin is no RateLimiter \(.*RateLimiterPlugin\)$"):
        LLMKitRateLimiter(plugin)
    LLMKitRateLimiter(plugin.limiter)
