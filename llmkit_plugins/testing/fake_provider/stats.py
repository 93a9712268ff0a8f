"""Counts of what a fake provider has received and sent, readable from any thread."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from llmkit_plugins.call import Usage


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """One request as it arrived. Its content is not in its ``repr``."""

    endpoint: str
    """``chat``, ``completions`` or ``embeddings``."""
    body: Mapping[str, Any] = field(repr=False)
    """The JSON."""
    headers: Mapping[str, str] = field(repr=False)
    """Lower-case names."""

    @property
    def model(self) -> str | None:
        """The requested model."""
        return self.body.get("model")

    @property
    def user(self) -> str | None:
        """The caller, from the body's ``user``."""
        return self.body.get("user")

    @property
    def stream(self) -> bool:
        """Whether the answer was to be streamed."""
        return bool(self.body.get("stream"))


@dataclass(frozen=True, slots=True)
class ProviderStats:
    """What a fake provider counted since it started or was reset."""

    requests: int
    """All requests that arrived, whatever their outcome."""
    by_endpoint: Mapping[str, int]
    """The same by ``chat``, ``completions``, ``embeddings`` and ``models``."""
    by_status: Mapping[int, int]
    """Requests whose response began, by HTTP status."""
    streamed: int
    """Streams that began."""
    in_flight: int
    """Requests being processed now."""
    peak_in_flight: int
    """The most being processed at any time."""
    queued: int
    """Requests now waiting for one in flight to end."""
    clients_left: int
    """Clients that went away before receiving their whole answer."""
    prompt_tokens: int
    """Tokens of the prompts that were answered."""
    completion_tokens: int
    """Tokens sent, including those of streams that broke off."""
    cost: float
    """USD for these tokens."""


class Ledger:
    """Keeps the counts and the last *keep* requests. One thread writes; any may read, or wait for a condition."""

    def __init__(self, keep: int) -> None:
        self._changed = threading.Condition()
        self._seen: deque[SeenRequest] = deque(maxlen=keep)
        self._in_flight = self._queued = 0
        self.reset()

    def reset(self) -> None:
        """Reset the counts. Requests in flight stay counted as in flight."""
        with self._changed:
            self._seen.clear()
            self._by_endpoint: Counter[str] = Counter()
            self._by_status: Counter[int] = Counter()
            self._streamed = self._clients_left = self._prompt_tokens = self._completion_tokens = 0
            self._peak_in_flight = self._in_flight
            self._cost = 0.0

    def arrived(self, endpoint: str) -> None:
        """Count a request that has arrived."""
        with self._changed:
            self._by_endpoint[endpoint] += 1
            self._changed.notify_all()

    def seen(self, request: SeenRequest) -> None:
        """Record a request whose body has been read."""
        with self._changed:
            self._seen.append(request)
            self._changed.notify_all()

    def occupied(self, in_flight: int, queued: int) -> None:
        """Record how many requests are being processed and how many wait."""
        with self._changed:
            self._in_flight, self._queued = in_flight, queued
            self._peak_in_flight = max(self._peak_in_flight, in_flight)
            self._changed.notify_all()

    def responded(self, status: int, *, streamed: bool = False) -> None:
        """Count a response that begins."""
        with self._changed:
            self._by_status[status] += 1
            self._streamed += streamed
            self._changed.notify_all()

    def sent(self, usage: Usage, cost: float) -> None:
        """Count tokens that are being sent to the client."""
        with self._changed:
            self._prompt_tokens += usage.input_tokens
            self._completion_tokens += usage.output_tokens
            self._cost += cost
            self._changed.notify_all()

    def client_left(self) -> None:
        """Count a client that went away early."""
        with self._changed:
            self._clients_left += 1
            self._changed.notify_all()

    def requests(self) -> list[SeenRequest]:
        """The last requests, oldest first."""
        with self._changed:
            return list(self._seen)

    def snapshot(self) -> ProviderStats:
        """A consistent snapshot of all counts."""
        with self._changed:
            return ProviderStats(
                requests=self._by_endpoint.total(),
                by_endpoint=MappingProxyType(dict(self._by_endpoint)),
                by_status=MappingProxyType(dict(self._by_status)),
                streamed=self._streamed,
                in_flight=self._in_flight,
                peak_in_flight=self._peak_in_flight,
                queued=self._queued,
                clients_left=self._clients_left,
                prompt_tokens=self._prompt_tokens,
                completion_tokens=self._completion_tokens,
                cost=self._cost,
            )

    def wait_until(self, holds: Callable[[ProviderStats], bool], timeout_seconds: float) -> ProviderStats:
        """Block until *holds* is true of the counts; return them. Raises ``TimeoutError`` after *timeout_seconds*."""
        with self._changed:
            if not self._changed.wait_for(lambda: holds(self.snapshot()), timeout_seconds):
                raise TimeoutError(f"after {timeout_seconds} s it still does not hold of {self.snapshot()}")
            return self.snapshot()
