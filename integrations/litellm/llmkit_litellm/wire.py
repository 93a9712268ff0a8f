"""What plugins want the provider to be sent besides the request itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import litellm

from llmkit_plugins.call import Attempt

T = TypeVar("T")


def with_headers(send: Callable[..., T], attempt: Attempt | None) -> Callable[..., T]:
    """*send*, LiteLLM's function with the caller's arguments, sending the headers that plugins want with *attempt* too;
    where the caller set one himself, that one."""
    wanted = None if attempt is None else attempt.request_headers
    if wanted is None:
        return send
    given = send.keywords.get("headers") if isinstance(send, partial) else None
    return partial(send, headers={**wanted, **(given or litellm.headers or {})})
