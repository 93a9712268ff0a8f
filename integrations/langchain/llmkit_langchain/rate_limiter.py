"""A rate limiter for ``rate_limiter=`` of any chat model."""

from __future__ import annotations

from langchain_core.rate_limiters import BaseRateLimiter

from llmkit_langchain.calls import caller_here
from llmkit_langchain.errors import langchain_errors
from llmkit_plugins import ConfigError, RateLimiter
from llmkit_plugins.given import given


class LLMKitRateLimiter(BaseRateLimiter):
    """Lets a chat model consult *limiter* before each call: ``ChatOpenAI(rate_limiter=LLMKitRateLimiter(limiter))``.

    LangChain tells a limiter nothing about the call, so limits can count only requests. *provider* and *model* are
    those given here. The user and tenant come from the metadata of the enclosing chain, or of the call if a
    ``ChatLLMKit`` sends it, or else from ``llmkit_context``. It queues if the limiter does, and raises ``RateLimited``
    over the limit, because LangChain calls the model whatever a limiter returns. Raises ``ConfigError`` for anything
    that is not a limiter, and for concurrency limits, because LangChain does not report when a call ends.
    """

    def __init__(self, limiter: RateLimiter, *, provider: str | None = None, model: str | None = None) -> None:
        limiter = given(RateLimiter, limiter, key="limiter", right="RateLimiter([...]), or that of a RateLimiterPlugin")
        if any(limit.concurrency is not None for limit in limiter.limits):
            what, right = "a permit could never be released here", "limit concurrency in a kit, with ChatLLMKit"
            raise ConfigError(what, key="limits.concurrency", right=right)
        self._limiter, self._provider, self._model = limiter, provider, model

    def acquire(self, *, blocking: bool = True) -> bool:
        """Wait for a turn in this thread. If not *blocking*, do not wait, and return whether there was room."""
        whose = self._whose()
        if not blocking:
            return self._limiter.check_and_consume(*whose)
        with langchain_errors, self._limiter.acquire(*whose):
            return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        """The same, async."""
        whose = self._whose()
        if not blocking:
            return self._limiter.check_and_consume(*whose)
        with langchain_errors:
            async with self._limiter.acquire(*whose):
                return True

    def _whose(self) -> tuple[str | None, str | None, str | None, str | None]:
        caller = caller_here()
        return self._provider, self._model, caller.user, caller.tenant
