"""What plugins want sent to the provider besides the request itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import litellm

from llmkit_plugins.call import Attempt

T = TypeVar("T")


def with_headers(send: Callable[..., T], attempt: Attempt | None) -> Callable[..., T]:
    """*send*, LiteLLM's function with the caller's arguments, also sending the headers that plugins add to *attempt*;
    headers set by the caller win."""
    wanted = None if attempt is None else attempt.request_headers
    if wanted is None:
        return send
    given = send.keywords.get("headers") if isinstance(send, partial) else None
    return partial(send, headers={**wanted, **(given or litellm.headers or {})})
