"""When each token of an answer is due."""

from __future__ import annotations

import asyncio
from itertools import accumulate
from random import Random

from llmkit_plugins.testing.fake_provider.behaviour import Behaviour
from llmkit_plugins.testing.fake_provider.latency import latency_of


class Pace:
    """When each of *tokens* tokens is due, counted from now, so that one sleep that takes too long does not delay the
    tokens after it."""

    def __init__(self, behaviour: Behaviour, random: Random, tokens: int) -> None:
        first = latency_of("first_token_seconds", behaviour.first_token_seconds)
        following = latency_of("per_token_seconds", behaviour.per_token_seconds)
        gaps = (following.sample(random) for _ in range(tokens - 1))
        self.due_seconds = list(accumulate(gaps, initial=first.sample(random)))
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()

    async def until(self, position: int) -> None:
        """Wait until the token at *position* (or the last one) is due. If it already is, does not yield to the event
        loop."""
        due = self.due_seconds[min(position, len(self.due_seconds) - 1)]
        wait = self._started + due - self._loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
