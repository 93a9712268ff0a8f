"""A request to LiteLLM, by its arguments, as a :class:`~llmkit_plugins.Call`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any

from llmkit_litellm.callers import caller_of
from llmkit_plugins.call import Call, new_id
from llmkit_plugins.conventions import CREDENTIAL, is_volatile

_ELSEWHERE = frozenset({"model", "stream", "user", "metadata", "litellm_metadata"})
_PLUMBING = frozenset(
    {
        "acompletion",
        "cache",
        "caching",
        "callbacks",
        "litellm_call_id",
        "litellm_disabled_callbacks",
        "litellm_logging_obj",
        "litellm_parent_otel_span",
        "litellm_request_debug",
        "litellm_session_id",
        "litellm_trace_id",
        "logger_fn",
        "max_retries",
        "model_info",
        "no-log",
        "num_retries",
        "priority",
        "proxy_server_request",
        "request_timeout",
        "retry_policy",
        "secret_fields",
        "shared_session",
        "standard_logging_object",
        "stream_timeout",
        "timeout",
        "turn_off_message_logging",
        "verbose",
    }
)
"""Arguments that cannot change the answer."""

_SECRETS = ("api_key", "token", "secret", "password", "credential", "access_key", "headers")


def call_of(arguments: Mapping[str, Any], operation: str = "chat", prompt: str = "messages") -> Call:
    """The call that the *arguments* of an *operation* describe; the argument named *prompt* holds its prompt.

    The user is ``user=``, else the metadata's ``user`` or ``user_id``; the tenant is the metadata's; behind the proxy,
    both are the key's. Its parameters contain no secrets, but a digest of them, ``credential``, so that a call with
    another key is another call. They include the metadata's ``tags``: a Router may select by them.
    """
    metadata = {**(arguments.get("litellm_metadata") or {}), **(arguments.get("metadata") or {})}
    if arguments.get("cache") is not None:
        metadata["cache"] = arguments["cache"]  # a caller that wants no cached answer wants no shared one either
    user, tenant = caller_of(arguments, metadata)
    params = _params(arguments, prompt)
    if metadata.get("tags"):
        params["tags"] = metadata["tags"]
    return Call(
        messages=arguments.get(prompt),
        model=arguments.get("model"),
        operation=operation,
        params=params,
        user=user,
        tenant=tenant,
        stream=bool(arguments.get("stream")),
        metadata=metadata,
        id=str(arguments.get("litellm_call_id") or new_id()),
    )


def _params(arguments: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    params: dict[str, Any] = {}
    secrets: list[tuple[str, str]] = []
    for name, value in arguments.items():
        if value is None or name == prompt or _cannot_matter(name):
            continue
        if name == "client":
            secrets.append((name, _credential_of(value)))
        elif not _is_secret(name):
            params[name] = value
        elif "headers" in name and isinstance(value, Mapping):
            told, secret = _parted(value)
            if told:
                params[name] = told
            if secret:
                secrets.append((name, repr(secret)))
        else:
            secrets.append((name, repr(value)))
    if secrets:
        params[CREDENTIAL] = hashlib.blake2b(repr(sorted(secrets)).encode(), digest_size=8).hexdigest()
    return params


def _cannot_matter(name: str) -> bool:
    return name in _ELSEWHERE or name in _PLUMBING or name.startswith("_")


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return not name.startswith("max_") and any(word in name for word in _SECRETS)


def _parted(headers: Mapping[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits *headers* into those that are not secret, as they only identify requests or concern caches, and the
    rest."""
    told: dict[str, Any] = {}
    secret: dict[str, Any] = {}
    for name, value in sorted(((str(name).lower(), value) for name, value in headers.items()), key=itemgetter(0)):
        (told if name == "cache-control" or is_volatile(name) else secret)[name] = value
    return told, secret


def _credential_of(client: Any) -> str:
    """The credential and address that the caller's own *client* uses; if it does not tell, the identity of the
    client."""
    key = getattr(client, "api_key", None)
    if key is None:
        return f"{type(client).__name__} {id(client)}"
    headers = getattr(client, "default_headers", None)
    told = headers.items() if isinstance(headers, Mapping) else ()
    texts = sorted((name, value) for name, value in told if isinstance(value, str))
    return repr((key, str(getattr(client, "base_url", None)), texts))
