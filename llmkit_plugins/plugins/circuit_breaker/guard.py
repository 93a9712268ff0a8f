"""Calls guarded by a circuit: as a function call, a decorator or a ``with`` block, sync and async."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from llmkit_plugins.clock import Clock
from llmkit_plugins.errors import CircuitOpen, ConfigError
from llmkit_plugins.plugins.circuit_breaker.circuit import Circuit
from llmkit_plugins.plugins.circuit_breaker.failures import IsFailure, kind_that_counts, retry_after_of
from llmkit_plugins.plugins.circuit_breaker.machine import Permit

P = ParamSpec("P")
R = TypeVar("R")

_entered: ContextVar[tuple[tuple[Guard, Permit, float], ...]] = ContextVar("llmkit_circuits_entered", default=())
"""The ``with`` blocks around the current code: one breaker serves many threads and tasks."""


class Guard:
    """Times calls and reports their outcomes to a circuit."""

    __slots__ = ("__weakref__", "_clock", "_is_failure", "circuit", "name")

    def __init__(self, name: str, circuit: Circuit, clock: Clock, is_failure: IsFailure) -> None:
        self.name, self.circuit, self._clock, self._is_failure = name, circuit, clock, is_failure

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call *function* guarded. Raises what it raises, or ``CircuitOpen`` without calling it."""
        circuit, clock = self.circuit, self._clock
        permit = circuit.free or self._admitted()
        started = clock()
        try:
            # Unpacking empty keywords costs as much as a call.
            answer = function(*args, **kwargs) if kwargs else function(*args)  # type: ignore[call-arg]
        except BaseException as error:
            self._ended(permit, started, error)
            raise
        now = clock()
        if permit is not circuit.free:
            circuit.answered(now, permit, now - started)
        elif reason := circuit.detector.answered(now, now - started):
            circuit.open_for(reason, now, permit.epoch)
        return answer

    async def acall(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Await *function* guarded, as ``call`` calls it."""
        permit, started = self.circuit.free or self._admitted(), self._clock()
        try:
            answer = await function(*args, **kwargs)
        except BaseException as error:
            self._ended(permit, started, error)
            raise
        now = self._clock()
        self.circuit.answered(now, permit, now - started)
        return answer

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function, sync or async. Raises ``ConfigError`` for a generator, which answers more than once."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            right = "a function; for a stream acquire, record_first_chunk and record_stream_end"
            raise ConfigError(f"{function.__qualname__} is a generator", key="function", right=right)

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            return self.call(function, *args, **kwargs)

        @functools.wraps(function)
        async def aguarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await self.acall(cast("Callable[P, Awaitable[Any]]", function), *args, **kwargs)

        return cast("Callable[P, R]", aguarded) if inspect.iscoroutinefunction(function) else guarded

    def __enter__(self) -> Permit:
        permit = self.circuit.free or self._admitted()
        _entered.set((*_entered.get(), (self, permit, self._clock())))
        return permit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered = _entered.get()
        # A block in a generator may end out of order, or in another context; its lease then gives the permit back.
        mine = len(entered) - 1
        while mine >= 0 and entered[mine][0] is not self:
            mine -= 1
        if mine < 0:
            return
        _, permit, started = entered[mine]
        _entered.set(entered[:mine] + entered[mine + 1 :])
        self._ended(permit, started, error)

    async def __aenter__(self) -> Permit:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _admitted(self) -> Permit:
        now, circuit = self._clock(), self.circuit
        if permit := circuit.admit(now):
            return permit
        raise CircuitOpen(self.name, circuit.wait(now))

    def _ended(self, permit: Permit, started: float, error: BaseException | None = None) -> None:
        now = self._clock()
        if error is None:
            self.circuit.answered(now, permit, now - started)
        elif kind := kind_that_counts(error, self._is_failure):
            self.circuit.failed(now, permit, kind, now - started, retry_after_of(error))
        else:
            self.circuit.release(permit)
