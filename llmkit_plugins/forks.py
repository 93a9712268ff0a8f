"""What a forked process must not inherit from its parent: locks held by other threads, and the work they had under
way. These threads do not exist in the child, which would wait for them forever."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

T = TypeVar("T")

_locks: WeakSet[Any] = WeakSet()
_owners: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()


def new_lock() -> threading.Lock:
    """A ``Lock`` that is unlocked in a forked process."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def new_rlock() -> threading.RLock:
    """An ``RLock`` that is unlocked in a forked process."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def in_child(owner: T, begin: Callable[[T], None]) -> None:
    """Call *begin* with *owner* in every forked process, as long as *owner* is alive."""
    _owners[owner] = begin


def _begin_anew() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()  # noqa: SLF001 - as the standard library does with its own
    for owner, begin in list(_owners.items()):
        begin(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
