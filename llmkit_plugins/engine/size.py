"""What a chunk weighs, cheaply: an estimate that tells a kilobyte from a megabyte."""

from __future__ import annotations

from collections.abc import Mapping
from sys import getsizeof
from typing import Any

SAMPLED = 16
"""Where many chunks are to be weighed at once, one of so many is; they are alike."""

_DEPTH = 8
_LEAVES = (str, bytes, bytearray, int, float, type, type(None))


def size_of(value: Any, depth: int = _DEPTH) -> int:
    """Bytes that *value* takes in memory, with its items and attributes, *depth* levels down.

    What is referenced twice counts twice, and what only C code can see not at all: it is right within a factor of two
    for texts, dicts and the chunks of the frameworks.
    """
    size = getsizeof(value)
    if isinstance(value, _LEAVES) or not depth:
        return size
    if isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    else:
        state = getattr(value, "__dict__", None)
        if not state:
            return size
        size, parts = size + getsizeof(state), list(state.values())
    return size + sum([size_of(part, depth - 1) for part in parts])
