"""A hundred tokens a minute are a hundred tokens a minute, whatever five callers at once try: over real HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmkit_plugins import Call, LLMKit, RateLimited, Target
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiterPlugin
from llmkit_plugins.testing import FakeProvider

PROMPT = [{"role": "user", "content": " ".join(["word"] * 40)}]
"""Forty words and the provider's own overhead; the answer is as long as *max_tokens* allows."""
LIMIT = 100
LARGEST = 80
"""The tokens of one such call, with ten of output: what a call that is under way may be beyond the limit."""


def kit_of(limit: Limit) -> LLMKit:
    return LLMKit([RateLimiterPlugin(limits=[limit])], [Target("a", "p", "model")])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("usage", [True, False], ids=["with usage", "without usage"])
@pytest.mark.parametrize("per", ["user", "target"])
async def test_five_at_once_cannot_spend_more_than_there_is(
    openai_backend: Any, stream: bool, usage: bool, per: str
) -> None:
    """Of five concurrent calls the limit admits what fits; what the provider counted is within one call of it."""
    with FakeProvider(reply=" ".join(["word"] * 30), first_token_seconds=0.02) as provider:
        kit, backend = (
            kit_of(Limit(tokens=f"{LIMIT}/min", per=per)),
            openai_backend(include_usage=usage, a=provider.url),
        )

        async def one() -> bool:
            call = Call(PROMPT, user="ann", params={"max_tokens": 10})
            try:
                if stream:
                    async for _ in kit.astream(call, backend):
                        pass
                else:
                    await kit.acall(call, backend)
            except RateLimited:
                return False
            return True

        for _ in range(4):
            await asyncio.gather(*[one() for _ in range(5)])
        await backend.aclose()
        spent = provider.stats.prompt_tokens + provider.stats.completion_tokens
    assert 0 < spent <= LIMIT + LARGEST


async def test_streams_left_half_way_are_charged_for_what_they_said(openai_backend: Any) -> None:
    """Who leaves after three words of thirty uses up neither as much as who reads them all, nor nothing."""
    with FakeProvider(reply=" ".join(["word"] * 30), per_token_seconds=0.002) as provider:
        kit, backend = kit_of(Limit(output_tokens="60/min", per="user")), openai_backend(a=provider.url)
        left = 0
        for _ in range(40):
            stream = kit.astream(Call(PROMPT, user="ann", params={"max_tokens": 30}), backend)
            try:
                for _ in range(4):  # the first names the role
                    await anext(stream)
            except RateLimited:
                break
            await stream.aclose()  # type: ignore[attr-defined]
            left += 1
        await backend.aclose()
    assert 3 <= left <= 15
