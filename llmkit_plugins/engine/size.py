"""A cheap estimate of a chunk's size, good enough to tell a kilobyte from a megabyte."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from sys import getsizeof
from typing import Any

SAMPLED = 16
"""In a larger collection, this many items are measured and stand for the rest."""

MOST = 256
"""The most objects visited: a chunk may reference half of the process."""


def size_of(value: Any) -> int:
    """Bytes that *value* takes in memory, with its items and attributes.

    Memory that only C code can see is not counted; shared objects are. Accurate to a few percent for strings, numbers
    and plain data, and within a factor of three for the frameworks' chunks. Takes 1 µs for a string, 10 to 50 µs for an
    object.
    """
    total = 0.0
    seen: set[int] = set()
    queue = deque([(value, 1.0)])
    while queue and len(seen) < MOST:
        part, weight = queue.popleft()
        if id(part) not in seen:
            seen.add(id(part))
            total += weight * getsizeof(part)
            parts = _parts(part)
            if (many := len(parts)) > SAMPLED:
                parts, weight = parts[:: many // SAMPLED][:SAMPLED], weight * many / SAMPLED
            queue.extend([(each, weight) for each in parts])
    return int(total)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, str | bytes | bytearray | int | float | type):
        return []
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return [*value]
    state = getattr(value, "__dict__", None)
    return [state] if state else []
