"""Code that is atomic without a lock where the interpreter allows it, and with one elsewhere.

CPython with a GIL switches threads only at calls, backward jumps and function entries. If there are none between
reading a state and writing it, no other thread can intervene, and a lock would only cost time: 170 ns of the 150 that a
check may take, and 150 µs at the 99.9th percentile with four threads. The tests disassemble every such function and
race it.

This does not hold on other interpreters, without the GIL, or while a trace function written in Python runs between any
two lines. Objects built then have a lock. Objects built before a tracer is set do not: under a debugger, a limit may be
exceeded by as many calls as there are threads.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_TOOLS = range(6)
"""The tool ids of ``sys.monitoring``."""

_guarded: dict[type, type] = {}


def lock_free() -> bool:
    """Whether code without calls and backward jumps is atomic in this process now."""
    gil: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    return sys.implementation.name == "cpython" and gil() and not _traced()


def _traced() -> bool:
    """Whether Python code may run between two lines."""
    if _runs_python(sys.gettrace()) or _runs_python(threading.gettrace()):
        return True
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and any(monitoring.get_tool(tool) for tool in _TOOLS)


def _runs_python(tracer: Any) -> bool:
    """Whether *tracer* runs Python. Coverage's does not: it is C, and its hook for new threads only installs it."""
    coverage = type(tracer).__name__ == "CTracer" or getattr(tracer, "__module__", None) == "coverage.collector"
    return tracer is not None and not coverage


def atomic(function: F, lock: Any) -> F:
    """*function* itself if it is atomic without a lock; otherwise a wrapper that holds *lock*."""
    if lock_free():
        return function

    @wraps(function)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return function(*args, **kwargs)

    return cast(F, locked)


def guarded(cls: type[T]) -> type[T]:
    """The subclass of *cls* whose methods named in ``cls.ATOMIC`` hold the object's own lock."""
    known = _guarded.get(cls)
    return cast(type[T], known if known is not None else _guarded.setdefault(cls, _guard(cls)))


def _guard(cls: Any) -> type:
    def begin(self: Any, *args: Any, **kwargs: Any) -> None:
        self._lock = threading.RLock()
        cls.__init__(self, *args, **kwargs)

    def locked(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            with self._lock:
                return method(self, *args, **kwargs)

        return call

    atomic = {name: locked(getattr(cls, name)) for name in cls.ATOMIC}
    return type(
        cls.__name__, (cls,), {"__slots__": ("_lock",), "__module__": cls.__module__, "__init__": begin, **atomic}
    )
