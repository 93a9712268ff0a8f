"""What a fake provider has seen and sent, counted so that any thread may look."""

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
    """One request as it arrived. What it carries is not in its ``repr``."""

    endpoint: str
    """``chat``, ``completions`` or ``embeddings``."""
    body: Mapping[str, Any] = field(repr=False)
    """The JSON."""
    headers: Mapping[str, str] = field(repr=False)
    """Lower-case names."""

    @property
    def model(self) -> str | None:
        """The model asked for."""
        return self.body.get("model")

    @property
    def user(self) -> str | None:
        """Who asks, by the body's ``user``."""
        return self.body.get("user")

    @property
    def stream(self) -> bool:
        """Whether the answer was wanted in chunks."""
        return bool(self.body.get("stream"))


@dataclass(frozen=True, slots=True)
class ProviderStats:
    """What a fake provider counted since it started or was reset."""

    requests: int
    """All that arrived, whatever became of them."""
    by_endpoint: Mapping[str, int]
    """The same by ``chat``, ``completions``, ``embeddings`` and ``models``."""
    by_status: Mapping[int, int]
    """Those whose response began, by its HTTP status."""
    streamed: int
    """Streams that began."""
    in_flight: int
    """Being worked on now."""
    peak_in_flight: int
    """The most that were at any time."""
    queued: int
    """Waiting now for one of those in flight to end."""
    clients_left: int
    """Clients that went away before they had their whole answer."""
    prompt_tokens: int
    """Tokens of the prompts that were answered."""
    completion_tokens: int
    """Tokens sent, those of streams that broke off included."""
    cost: float
    """USD for these."""


class Ledger:
    """Counts. One thread writes, any may read or wait for a state of affairs; keeps the last *keep* requests."""

    def __init__(self, keep: int) -> None:
        self._changed = threading.Condition()
        self._seen: deque[SeenRequest] = deque(maxlen=keep)
        self._in_flight = self._queued = 0
        self.reset()

    def reset(self) -> None:
        """Begin at zero. What is under way stays under way."""
        with self._changed:
            self._seen.clear()
            self._by_endpoint: Counter[str] = Counter()
            self._by_status: Counter[int] = Counter()
            self._streamed = self._clients_left = self._prompt_tokens = self._completion_tokens = 0
            self._peak_in_flight = self._in_flight
            self._cost = 0.0

    def arrived(self, endpoint: str) -> None:
        """A request has come."""
        with self._changed:
            self._by_endpoint[endpoint] += 1
            self._changed.notify_all()

    def seen(self, request: SeenRequest) -> None:
        """Its body was read."""
        with self._changed:
            self._seen.append(request)
            self._changed.notify_all()

    def occupied(self, in_flight: int, queued: int) -> None:
        """So many are being worked on, so many wait."""
        with self._changed:
            self._in_flight, self._queued = in_flight, queued
            self._peak_in_flight = max(self._peak_in_flight, in_flight)
            self._changed.notify_all()

    def responded(self, status: int, *, streamed: bool = False) -> None:
        """A response begins."""
        with self._changed:
            self._by_status[status] += 1
            self._streamed += streamed
            self._changed.notify_all()

    def sent(self, usage: Usage, cost: float) -> None:
        """These tokens are on their way to the client."""
        with self._changed:
            self._prompt_tokens += usage.input_tokens
            self._completion_tokens += usage.output_tokens
            self._cost += cost
            self._changed.notify_all()

    def client_left(self) -> None:
        """A client went away early."""
        with self._changed:
            self._clients_left += 1
            self._changed.notify_all()

    def requests(self) -> list[SeenRequest]:
        """The last requests, oldest first."""
        with self._changed:
            return list(self._seen)

    def snapshot(self) -> ProviderStats:
        """All counts of one moment."""
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
        """Block until *holds* of the counts, and return them. Raises ``TimeoutError`` after *timeout_seconds*."""
        with self._changed:
            if not self._changed.wait_for(lambda: holds(self.snapshot()), timeout_seconds):
                raise TimeoutError(f"after {timeout_seconds} s it still does not hold of {self.snapshot()}")
            return self.snapshot()
