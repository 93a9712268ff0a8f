"""The rate limiter: keeps callers and providers within their limits.

Where to find what, from the outside in:

- ``plugin``: the hooks; ``config``: the settings; ``limits``: what a user writes as a limit.
- ``limiter``: the algorithm's face. ``phases`` picks the limits that are charged now, ``plans`` those that a call is
  subject to, each a ``levels.Level`` with a ``keyed`` table of states; ``demand`` says how much the call needs,
  by ``estimate``.
- ``admission``: take it all or nothing, then refuse, wait or pass. ``unrolled`` is that taking, written out so that it
  is atomic (``atomic`` says why it is); ``bucket`` and ``rate`` are the same arithmetic for one bucket by itself.
- ``ticket``: what a call has taken, until it is settled or given back. ``queueing`` and ``turns``: its place in line;
  ``waiting``: who really sleeps.
- ``adaptive``: what a provider allows, by its ``headers`` and, where it only refuses, by ``aimd``. ``shared``: the
  part that is kept in a store for all processes.
"""

from __future__ import annotations

from llmkit_plugins.plugins.rate_limiter.bucket import TokenBucket
from llmkit_plugins.plugins.rate_limiter.config import RateLimiterConfig
from llmkit_plugins.plugins.rate_limiter.limiter import LimitStats, RateLimiter
from llmkit_plugins.plugins.rate_limiter.limits import Limit
from llmkit_plugins.plugins.rate_limiter.plugin import RateLimiterPlugin
from llmkit_plugins.plugins.rate_limiter.ticket import Ticket

__all__ = ["Limit", "LimitStats", "RateLimiter", "RateLimiterConfig", "RateLimiterPlugin", "Ticket", "TokenBucket"]
