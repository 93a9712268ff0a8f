"""The rate limiter: how much of what, for each of whom, in turn."""

from __future__ import annotations

from llmkit_plugins.plugins.rate_limiter.bucket import TokenBucket
from llmkit_plugins.plugins.rate_limiter.config import RateLimiterConfig
from llmkit_plugins.plugins.rate_limiter.limiter import LimitStats, RateLimiter
from llmkit_plugins.plugins.rate_limiter.limits import Limit
from llmkit_plugins.plugins.rate_limiter.plugin import RateLimiterPlugin
from llmkit_plugins.plugins.rate_limiter.ticket import Ticket

__all__ = ["Limit", "LimitStats", "RateLimiter", "RateLimiterConfig", "RateLimiterPlugin", "Ticket", "TokenBucket"]
