"""What applications, integrations and plugins agree on beyond the types: the words they find each other's facts by."""

from __future__ import annotations

ROUTE_WISHES = "route"
"""In ``call.metadata``: where a call wants to go, and by what goal. The router heeds it, and so who wishes otherwise
asks something else."""

CREDENTIAL = "credential"
"""In ``call.params`` or ``call.metadata``: a fingerprint of the keys and clients that a call is sent with. It is never
sent."""

ROUTE_TAKEN = "llmkit"
"""In the metadata of an answer: which way it came, and whether it was made for another call. A provider is not told."""

VOLATILE_HEADERS = frozenset(
    {
        "b3",
        "baggage",
        "idempotency-key",
        "request-id",
        "sentry-trace",
        "traceparent",
        "tracestate",
        "uber-trace-id",
        "user-agent",
        "x-amzn-trace-id",
        "x-client-request-id",
        "x-cloud-trace-context",
        "x-correlation-id",
        "x-request-id",
    }
)
"""Request headers that tell requests apart and change no answer; besides those that begin like this:"""
_VOLATILE_PREFIXES = ("x-b3-", "x-datadog-", "x-stainless-")


def is_volatile(header: str) -> bool:
    """Whether *header*, a name in lower case, tells requests apart and changes no answer."""
    return header in VOLATILE_HEADERS or header.startswith(_VOLATILE_PREFIXES)
