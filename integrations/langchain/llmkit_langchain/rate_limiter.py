"""A rate limiter for ``rate_limiter=`` of any chat model."""

from __future__ import annotations

from langchain_core.rate_limiters import BaseRateLimiter

from llmkit_langchain.calls import caller_here
from llmkit_langchain.errors import langchain_errors
from llmkit_plugins import ConfigError, RateLimiter
from llmkit_plugins.given import given


class LLMKitRateLimiter(BaseRateLimiter):
    """Lets a chat model ask *limiter* before each call: ``ChatOpenAI(rate_limiter=LLMKitRateLimiter(limiter))``.

    LangChain tells a limiter nothing of the call, so that limits count requests; *provider* and *model* are those given
    here, the user and the tenant those of the metadata of the chain the model is in, or of the call where a
    ``ChatLLMKit`` sends it, else those of ``llmkit_context``. It waits in turn where the limiter does, and raises
    ``RateLimited`` over the limit, since LangChain calls the model whatever a limiter returns. Raises ``ConfigError``
    for what is no limiter, and where a limit is one of concurrency: LangChain does not tell when a call ends.
    """

    def __init__(self, limiter: RateLimiter, *, provider: str | None = None, model: str | None = None) -> None:
        limiter = given(RateLimiter, limiter, key="limiter", right="RateLimiter([...]), or that of a RateLimiterPlugin")
        if any(limit.concurrency is not None for limit in limiter.limits):
            what, right = "a permit could never be released here", "limit concurrency in a kit, with ChatLLMKit"
            raise ConfigError(what, key="limits.concurrency", right=right)
        self._limiter, self._provider, self._model = limiter, provider, model

    def acquire(self, *, blocking: bool = True) -> bool:
        """Wait for one's turn in this thread. Not *blocking*, it does not wait, and returns whether there was room."""
        whose = self._whose()
        if not blocking:
            return self._limiter.check_and_consume(*whose)
        with langchain_errors, self._limiter.acquire(*whose):
            return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        """The same, awaiting."""
        whose = self._whose()
        if not blocking:
            return self._limiter.check_and_consume(*whose)
        with langchain_errors:
            async with self._limiter.acquire(*whose):
                return True

    def _whose(self) -> tuple[str | None, str | None, str | None, str | None]:
        caller = caller_here()
        return self._provider, self._model, caller.user, caller.tenant
