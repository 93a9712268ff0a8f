"""The rate limiter: keeps callers and providers within their limits.

Where to find what, from the outside in:

- ``plugin``: the hooks; ``config``: the settings; ``limits``: what a user writes as a limit.
- ``limiter``: the algorithm's interface. ``phases`` picks the limits that are charged now, ``plans`` those that apply
  to a call, each a ``levels.Level`` with a ``keyed`` table of states; ``demand`` says how much the call needs, using
  ``estimate``.
- ``admission``: take all or nothing, then refuse, wait or let pass. ``unrolled`` does the taking, in straight-line code
  so that it is atomic (``atomic`` explains why); ``bucket`` and ``rate`` are the same arithmetic for a single bucket.
- ``ticket``: what a call has taken, until it is settled or given back. ``queueing`` and ``turns``: its place in line;
  ``waiting``: the actual sleeping.
- ``adaptive``: what a provider allows, according to its ``headers`` or, if it only refuses, to ``aimd``. ``shared``:
  the part kept in a store for all processes.
"""

from __future__ import annotations

from llmkit_plugins.plugins.rate_limiter.bucket import TokenBucket
from llmkit_plugins.plugins.rate_limiter.config import RateLimiterConfig
from llmkit_plugins.plugins.rate_limiter.limiter import LimitStats, RateLimiter
from llmkit_plugins.plugins.rate_limiter.limits import Limit
from llmkit_plugins.plugins.rate_limiter.plugin import RateLimiterPlugin
from llmkit_plugins.plugins.rate_limiter.ticket import Ticket

__all__ = ["Limit", "LimitStats", "RateLimiter", "RateLimiterConfig", "RateLimiterPlugin", "Ticket", "TokenBucket"]
