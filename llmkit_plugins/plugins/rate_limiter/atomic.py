"""Where a few lines are atomic by themselves, and a lock where they are not.

CPython with a GIL hands over to another thread only at calls, backward jumps and function entries. Where there is
none of these between reading a state and writing it, nobody else can come between, and a lock would only cost time:
170 ns of the 150 that a check may take, and 150 µs at the 99.9th percentile with four threads. The tests disassemble
every such function and race it.

That does not hold on other interpreters, without the GIL, and while a trace function written in Python runs between
any two lines. What is built then is built with a lock. A tracer that is set later finds objects that are there
already without one: a debugger may see a limit exceeded by as many calls as there are threads.
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
"""The ids that ``sys.monitoring`` knows."""

_guarded: dict[type, type] = {}


def lock_free() -> bool:
    """Whether lines without a call or a backward jump are atomic here and now."""
    gil: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    return sys.implementation.name == "cpython" and gil() and not _traced()


def _traced() -> bool:
    """Whether Python code may run between two lines."""
    if _runs_python(sys.gettrace()) or _runs_python(threading.gettrace()):
        return True
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and any(monitoring.get_tool(tool) for tool in _TOOLS)


def _runs_python(tracer: Any) -> bool:
    """Coverage's usual tracer is C and runs none; what it sets for new threads only puts that one in place."""
    coverage = type(tracer).__name__ == "CTracer" or getattr(tracer, "__module__", None) == "coverage.collector"
    return tracer is not None and not coverage


def atomic(function: F, lock: Any) -> F:
    """*function*, whose lines are atomic by themselves where they can be; elsewhere it holds *lock*."""
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
