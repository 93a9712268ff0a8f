"""Who makes a call: as the application says, or as the proxy found when it checked the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from llmkit_litellm import compat


class Caller(NamedTuple):
    """Who makes the call, and on whose behalf; None if unknown."""

    user: str | None
    tenant: str | None


def caller_of(arguments: Mapping[str, Any], metadata: Mapping[str, Any]) -> Caller:
    """Who makes the call that *arguments* and their *metadata* describe.

    Behind the proxy the tenant is the key's team, else its organization, and the user is the request's ``user``, else
    the key's user, else the key: a client cannot claim in its metadata to be somebody else.
    """
    if compat.came_through_proxy(metadata):
        return Caller(_first(metadata, compat.PROXY_USER), _first(metadata, compat.PROXY_TENANT))
    return Caller(_text(arguments.get("user")) or _first(metadata, ("user", "user_id")), _first(metadata, ("tenant",)))


def _first(metadata: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((_text(metadata[name]) for name in names if metadata.get(name)), None)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
