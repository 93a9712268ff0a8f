"""When each token of an answer is due."""

from __future__ import annotations

import asyncio
from itertools import accumulate
from random import Random

from llmkit_plugins.testing.fake_provider.behaviour import Behaviour
from llmkit_plugins.testing.fake_provider.latency import latency_of


class Pace:
    """The moments at which *tokens* tokens are due, counted from now, so that a sleep that took too long delays nothing
    after it."""

    def __init__(self, behaviour: Behaviour, random: Random, tokens: int) -> None:
        first = latency_of("first_token_seconds", behaviour.first_token_seconds)
        following = latency_of("per_token_seconds", behaviour.per_token_seconds)
        gaps = (following.sample(random) for _ in range(tokens - 1))
        self.due_seconds = list(accumulate(gaps, initial=first.sample(random)))
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()

    async def until(self, position: int) -> None:
        """Wait for the token at *position*, at most for the last one. Does not even yield to others where it is due
        already."""
        due = self.due_seconds[min(position, len(self.due_seconds) - 1)]
        wait = self._started + due - self._loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
