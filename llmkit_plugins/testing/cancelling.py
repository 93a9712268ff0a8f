"""Cancels a task at each of its awaits in turn, as when a caller goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class CancelAt(Generic[T]):
    """``await CancelAt(coroutine, n)`` cancels the task that awaits it at the *n*-th time it has to wait.

    ``suspensions`` counts how often it had to wait: a test increases *n* until it exceeds that.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], at: int) -> None:
        self.suspensions = 0
        self._coroutine, self._at = coroutine, at

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._coroutine.__await__()
        resume: Callable[[Any], Any] = steps.send
        value: Any = None
        try:
            while True:
                waited_for = resume(value)
                self.suspensions += 1
                if self.suspensions == self._at:
                    _cancel_current_task()
                try:
                    resume, value = steps.send, (yield waited_for)
                except BaseException as error:
                    resume, value = steps.throw, error
        except StopIteration as end:
            result: T = end.value
            return result


def _cancel_current_task() -> None:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("CancelAt is awaited in a task")
    task.cancel()
