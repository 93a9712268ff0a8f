"""What the model lists of several LiteLLM Routers, in processes of their own, say of ``rpm``."""

from __future__ import annotations

import litellm
import pytest
from llmkit_litellm import LLMKitRouter

from llmkit_plugins import LLMKit
from llmkit_plugins.plugins.rate_limiter import RateLimiterPlugin
from llmkit_plugins.testing import FakeProvider


@pytest.mark.parametrize("awaits", [False, True], ids=["sync", "async"])
async def test_two_routers_keep_to_the_same_rpm(server, awaits):
    """Two deployments of two a minute take four calls, whichever Router sends them; the fifth is refused."""

    def router(url: str) -> LLMKitRouter:
        access = {"model": "openai/gpt-4o-mini", "api_key": "any", "api_base": url, "rpm": 2}
        deployments = [{"model_name": "chat", "litellm_params": access, "model_info": {"id": name}} for name in "ab"]
        return LLMKitRouter(
            model_list=deployments, num_retries=0, kit=LLMKit([RateLimiterPlugin(limits=[], store=server.url)])
        )

    messages = [{"role": "user", "content": "question"}]
    with FakeProvider() as provider:
        routers, answered = [router(provider.url) for _ in range(2)], 0
        for number in range(6):
            each = routers[number % 2]
            try:
                if awaits:
                    await each.acompletion("chat", messages)
                else:
                    each.completion("chat", messages)
            except litellm.RateLimitError:
                continue
            answered += 1
        assert answered == provider.stats.requests == 4
