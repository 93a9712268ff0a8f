"""Finished answers, kept for a while for identical calls that arrive late."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from cachetools import TTLCache

from llmkit_plugins.call import Attempt, Response
from llmkit_plugins.clock import Clock
from llmkit_plugins.engine.flights import Flight
from llmkit_plugins.forks import new_lock
from llmkit_plugins.plugins.multiplexer.config import MultiplexerConfig
from llmkit_plugins.steps import Answer


@dataclass(slots=True, frozen=True)
class Kept:
    """An answer, and the call that first got it."""

    log: list[Any]
    """Its chunks; just one if it is whole."""
    call_id: str
    attempt: Attempt | None
    held_bytes: int

    def answer(self, *, stream: bool) -> Answer:
        """What an identical call gets."""
        raw = None if stream else self.log[-1]
        return Answer(Response(raw, self.attempt, self.call_id), self.log if stream else ())


class Retained:
    """Answers by key, streamed and whole ones separately, for ``retain_seconds`` of *clock*; bounded in number and
    bytes: the least recently used is evicted first."""

    def __init__(self, config: MultiplexerConfig, clock: Clock) -> None:
        self._most = config.max_retained_answers
        self._kept: TTLCache[Hashable, Kept] = TTLCache(
            config.max_retained_bytes, config.retain_seconds, clock, lambda kept: kept.held_bytes
        )
        self._lock = new_lock()
        self.hits = 0
        """How many calls were served from here."""

    def keep(self, flight: Flight[Any]) -> None:
        """Keep the answer of *flight*, which has finished, unless it is too large."""
        key, stream, _ = flight.key
        leader, size = flight.call, flight.held_bytes()
        kept = Kept(flight.log, leader.id, leader.attempts[-1] if leader.attempts else None, size)
        with self._lock:
            if not flight.log or size > self._kept.maxsize:
                return
            self._kept.pop((key, stream), None)
            while len(self._kept) >= self._most:
                self._kept.popitem()
            self._kept[key, stream] = kept

    def get(self, key: Hashable, *, stream: bool) -> Kept | None:
        """The answer for *key*, if it is still there."""
        with self._lock:
            kept: Kept | None = self._kept.get((key, stream))
            self.hits += kept is not None
            return kept

    def drop(self, key: Hashable) -> bool:
        """Forget the answers for *key*. Whether there was one."""
        with self._lock:
            forgotten = [self._kept.pop((key, stream), None) for stream in (False, True)]
        return any(kept is not None for kept in forgotten)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)

    def held_bytes(self) -> int:
        """What they take, by estimate."""
        with self._lock:
            return int(self._kept.currsize)
