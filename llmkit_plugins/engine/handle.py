"""A call, or one attempt of it, that a framework sends itself: its lifecycle, paused at the send."""

from __future__ import annotations

import asyncio
from threading import RLock
from typing import TYPE_CHECKING, Any

from llmkit_plugins.call import Attempt, Call
from llmkit_plugins.clock import Clock
from llmkit_plugins.engine.bounds import affordable
from llmkit_plugins.engine.drivers import no_step, thrower, whose
from llmkit_plugins.engine.lifecycle import Flow, Relay
from llmkit_plugins.engine.telling import inform
from llmkit_plugins.errors import Refused
from llmkit_plugins.steps import Ask, Wait

if TYPE_CHECKING:
    from llmkit_plugins.engine.plan import Bugs, Plan


class Handle:
    """A call that a framework sends itself. The adapter reports each ``chunk`` and the ``first_chunk`` with content,
    then exactly one of ``finish``, ``fail`` and ``cancel``.

    A handle ends once; whatever is reported after that is ignored. If nothing ends it, its lease does, as cancelled; a
    stream that still delivers chunks keeps its lease. While the call runs, the framework's adapter writes what it
    learns onto ``attempt``.
    """

    __slots__ = ("_bugs", "_flow", "_leases", "_lock", "_relaying", "_seen", "attempt", "call")

    def __init__(self, flow: Flow, call: Call, attempt: Attempt, leases: Leases, bugs: Bugs) -> None:
        self.call, self.attempt, self._bugs = call, attempt, bugs
        self._flow, self._leases, self._relaying = flow, leases, False
        self._seen = 0
        self._lock = RLock()  # frameworks report on one call from several threads
        leases.grant(self)

    def first_chunk(self) -> None:
        """Report the first chunk with content; later calls do nothing."""
        with self._lock:
            if self.call.stream and not self._relaying and self in self._leases:
                self._relaying = True
                self._flow.send(Relay((), None))

    def chunk(self, chunk: Any) -> None:
        """Report *chunk* of the stream, for plugins that inspect chunks."""
        if self._relaying:
            self.attempt.chunks += 1
        if self.attempt.on_chunk is not None:
            inform(self._bugs, self.attempt.on_chunk, chunk)

    def finish(self, raw: Any = None) -> None:
        """End the call successfully, with *raw*."""
        with self._lock:
            if self.call.stream:
                self.first_chunk()
            if self._leases.end(self):
                try:  # noqa: SIM105 - ``suppress`` costs a tenth of the whole attempt
                    self._flow.send(raw)
                except StopIteration:
                    pass

    def fail(self, error: BaseException) -> None:
        """End the call with *error*; one that is not an ``Exception`` (a cancellation) does not count against the
        provider."""
        with self._lock:
            if self._leases.end(self):
                traceback = error.__traceback__
                try:
                    self._flow.throw(error)
                except BaseException as raised:
                    if raised is not error and raised.__cause__ is not error:  # as for a StopIteration's RuntimeError
                        raise
                finally:
                    error.__traceback__ = traceback  # it belongs to the framework: leave none of our frames in it

    def expire(self) -> None:
        """Renew the expired lease if chunks have arrived since it was granted; otherwise cancel."""
        with self._lock:
            if self.attempt.chunks > self._seen and self._leases.end(self):
                self._seen = self.attempt.chunks
                self._leases.grant(self)
                return
        self.cancel()

    def cancel(self) -> None:
        """End the call because the caller went away."""
        with self._lock:
            if self._leases.end(self):
                self._flow.close()


class Leases:
    """The open handles, oldest first; a call whose lease runs out is ended."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.seconds, self._clock = seconds, clock
        self.ends: dict[Handle, float] = {}
        """When each lease expires."""
        self._due = float("-inf")
        """No lease expires before this. It saves finding the oldest each time, which is slow if there are many."""

    def __len__(self) -> int:
        return len(self.ends)

    def __contains__(self, handle: Handle) -> bool:
        return handle in self.ends

    def grant(self, handle: Handle) -> None:
        """Start a lease for *handle*."""
        self.ends[handle] = self._clock() + self.seconds

    def end(self, handle: Handle) -> bool:
        """End the lease of *handle*; False if it had already ended."""
        return self.ends.pop(handle, None) is not None

    def expire(self, now: float) -> None:
        """Expire the leases that have run out by *now*."""
        while self.ends and now >= self._due:
            try:
                oldest, ends = next(iter(self.ends.items()))
            except (StopIteration, RuntimeError):  # another thread ended or granted one in the meantime
                return
            if ends > now:
                self._due = ends
                return
            oldest.expire()

    def close(self) -> None:
        """Cancel all open handles."""
        for handle in list(self.ends):
            handle.cancel()


def hold(flow: Flow, call: Call, plan: Plan, leases: Leases, *, may_wait: bool) -> Handle:
    """Drive *flow* in this thread up to the send. Unless *may_wait*, a hook that would wait gets ``Refused`` thrown
    in."""
    resume, value = flow.send, None
    try:
        while True:
            step = resume(value)
            if type(step) is Attempt:
                return Handle(flow, call, step, leases, plan.bugs)
            try:
                resume, value = flow.send, _perform(step, call, plan, may_wait)
            except BaseException as error:
                resume, value = thrower(flow, error), error
    finally:
        del value


async def ahold(flow: Flow, call: Call, plan: Plan, leases: Leases) -> Handle:
    """Drive *flow* in this task up to the send."""
    resume, value = flow.send, None
    try:
        while True:
            step = resume(value)
            if type(step) is Attempt:
                return Handle(flow, call, step, leases, plan.bugs)
            try:
                resume, value = flow.send, await _aperform(step, call, plan)
            except BaseException as error:
                value = whose(error)
                resume = thrower(flow, value)
    finally:
        del value


def _perform(step: Any, call: Call, plan: Plan, may_wait: bool) -> Any:  # noqa: FBT001
    if type(step) is Wait:
        seconds = affordable(step, plan, call.deadline)
        if not may_wait and seconds:
            raise Refused(f"this caller cannot wait {seconds:.3g} s", seconds)
        return plan.sleep(seconds)
    return _asking(step).run()


async def _aperform(step: Any, call: Call, plan: Plan) -> Any:
    if type(step) is Wait:
        return await asyncio.sleep(affordable(step, plan, call.deadline))
    return await _asking(step).arun()


def _asking(step: Any) -> Ask:
    if type(step) is not Ask:
        raise no_step(step)
    return step
