"""What applications, integrations and plugins agree on beyond the types: the keys under which they share facts."""

from __future__ import annotations

ROUTE_WISHES = "route"
"""In ``call.metadata``: where a call should be routed, and by which goal. The router respects it, so calls with
different wishes are different requests."""

CREDENTIAL = "credential"
"""In ``call.params`` or ``call.metadata``: a fingerprint of the keys and clients that a call is sent with. It is never
sent."""

ROUTE_TAKEN = "llmkit"
"""In the metadata of an answer: its route, and whether it was made for another call. It is not sent to a provider."""

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
"""Request headers that identify a request without changing its answer; so do those with these prefixes:"""
_VOLATILE_PREFIXES = ("x-b3-", "x-datadog-", "x-stainless-")


def is_volatile(header: str) -> bool:
    """Whether *header* (in lower case) identifies a request without changing its answer."""
    return header in VOLATILE_HEADERS or header.startswith(_VOLATILE_PREFIXES)
