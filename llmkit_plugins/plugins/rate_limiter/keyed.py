"""Bounded state by key. A missing key counts as full, so full ones need not be stored."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from llmkit_plugins.errors import ConfigError
from llmkit_plugins.plugins.rate_limiter.rate import FULL

OTHERS = "(others)"
"""The key shared by all keys for which there is no room."""

_TURN_AT = 1024
"""Below this many keys it is not worth looking for keys to forget."""


class Table:
    """The states of at most *max_keys* keys. A state at or below the base (now, or no permit in use) equals that of a
    new key.

    There are two generations, so that forgetting costs nothing on the hot path: a hit reads and writes ``young``, a
    plain dict, without a lock. Each new key examines two old ones: if still in use they move to ``young``, otherwise
    they are forgotten; once none are left, the generations rotate. So there are never many more keys than are in use,
    and no pauses. Beyond *max_keys* in use, new keys share one state, which is too strict rather than too lax.
    """

    __slots__ = ("_lock", "_max_keys", "_old", "young")

    def __init__(self, max_keys: int, lock: Any) -> None:
        if isinstance(max_keys, bool) or not isinstance(max_keys, int) or max_keys < 1:
            raise ConfigError(f"{max_keys!r} is not valid", key="max_keys", right="a whole number, at least 1")
        self.young: dict[Hashable, float] = {}
        self._old: dict[Hashable, float] = {}
        self._max_keys, self._lock = max_keys, lock

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def adopt(self, key: Hashable, base: float) -> Hashable:
        """Make sure that *key* is in ``young``; returns the key it is counted under, the same for all threads."""
        with self._lock:
            if key in self.young:
                return key
            if key not in self._old:
                self._forget(base)
                if len(self) >= self._max_keys and key != OTHERS:
                    return self.adopt(OTHERS, base)
            self.young[key] = self._old.get(key, FULL)
            self._old.pop(key, None)
            return key

    def state(self, key: Hashable) -> float:
        """The state of *key*, even if it is not stored."""
        state = self.young.get(key)
        if state is not None:
            return state
        with self._lock:
            return self.young[key] if key in self.young else self._old.get(key, FULL)

    def shift(self, key: Hashable, step: float, base: float) -> None:
        """Charge *step* to *key*, or give it back if negative. A debt may result."""
        with self._lock:
            if step <= 0.0 and self.state(key) <= base:
                return  # full, perhaps forgotten: what is given back must not go to other keys
            self._shift(key if key in self.young else self.adopt(key, base), step, base)

    def _shift(self, key: Hashable, step: float, base: float) -> None:
        # Takers do not hold the lock: no thread switch may occur between the read and the write.
        young = self.young
        state = young[key]
        if state < base:
            state = base
        young[key] = state + step

    def _forget(self, base: float) -> None:
        if not self._old and len(self.young) >= min(_TURN_AT, self._max_keys):
            self._old, self.young = self.young, {}
        for _ in range(min(2, len(self._old))):
            key, state = self._old.popitem()
            if state > base:
                self.young[key] = state
