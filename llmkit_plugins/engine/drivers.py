"""Four loops that perform the steps of a lifecycle: whole or in chunks, in this thread or awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from inspect import GEN_CLOSED, getgeneratorstate
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from llmkit_plugins.call import Attempt, Call, Response
from llmkit_plugins.engine.lifecycle import Deliver, Flow, Join, Relay
from llmkit_plugins.engine.sharing import AsyncSeat
from llmkit_plugins.errors import EmptyAnswer, ForeignCancel, Refused, TimedOut
from llmkit_plugins.steps import Ask, Wait

if TYPE_CHECKING:
    from llmkit_plugins.backend import Backend
    from llmkit_plugins.engine.plan import Plan

T = TypeVar("T")


class Until(Protocol):
    """Whoever has the deadline: the call, or where several share an upstream, their flight."""

    @property
    def deadline(self) -> float | None: ...


Resume = Callable[[Any], Any]


def run(flow: Flow, call: Call, backend: Backend, plan: Plan, until: Until) -> Any:
    """Drive *flow* in this thread, for the whole answer."""
    resume: Resume = flow.send
    value: Any = None
    try:
        while True:
            step = resume(value)
            try:
                resume, value = flow.send, perform(step, call, backend, plan, until)
            except BaseException as error:
                resume, value = thrower(flow, error), error  # thrown in outside this block, or later errors chain to it
    except StopIteration as end:
        return end.value
    finally:
        del value  # an error that we keep would keep our frame


async def arun(flow: Flow, call: Call, backend: Backend, plan: Plan, until: Until) -> Any:
    """Drive *flow* in this task, for the whole answer."""
    resume: Resume = flow.send
    value: Any = None
    try:
        while True:
            step = resume(value)
            try:
                resume, value = flow.send, await aperform(step, call, backend, plan, until)
            except BaseException as error:
                value = whose(error)
                resume = thrower(flow, value)
    except StopIteration as end:
        return end.value
    finally:
        del value


def stream(flow: Flow, call: Call, backend: Backend, plan: Plan, until: Until) -> Iterator[Any]:
    """Drive *flow* in this thread, handing over chunks."""
    resume: Resume = flow.send
    value: Any = None
    source, clock = None, plan.clock
    try:
        while True:
            step = resume(value)
            try:
                value = None
                if type(step) is Relay:
                    source, attempt = step.source, step.attempt
                    if attempt is None:
                        yield from chain(step.head, source) if step.head else source
                    else:
                        for chunk in chain(step.head, source):
                            handed = clock()
                            try:
                                yield chunk
                            finally:
                                attempt.paused_seconds += clock() - handed
                                attempt.chunks += 1
                elif type(step) is Deliver:
                    yield from map(backend.copy, step.answer.chunks)
                    value = True
                else:
                    value = perform(step, call, backend, plan, until)
                resume = flow.send
            except BaseException as error:
                resume, value = thrower(flow, error), error
                close(source)  # first the attempt inside it ends, then the call
    except StopIteration:
        pass
    finally:
        del value
        close(source)


async def astream(flow: Flow, call: Call, backend: Backend, plan: Plan, until: Until) -> AsyncIterator[Any]:
    """Drive *flow* in this task, handing over chunks."""
    resume: Resume = flow.send
    value: Any = None
    source, clock = None, plan.clock
    try:
        while True:
            step = resume(value)
            try:
                value = None
                if type(step) is Relay:
                    source, attempt = step.source, step.attempt
                    for chunk in step.head:
                        handed = clock()
                        try:
                            yield chunk
                        finally:
                            if attempt is not None:
                                attempt.paused_seconds += clock() - handed
                                attempt.chunks += 1
                    if type(source) is AsyncSeat:
                        at, log, flight, copy = 0, source.log, source.flight, source.copy
                        while True:
                            if at < len(log):
                                source.at = at = at + 1
                                yield copy(log[at - 1])
                            elif flight.over and flight.ended():
                                break
                            else:
                                await (flight.news() if until.deadline is None else flight.news_before(until.deadline))
                    elif attempt is None:
                        async for chunk in source:
                            yield chunk
                    else:
                        async for chunk in source:
                            handed = clock()
                            try:
                                yield chunk
                            finally:
                                attempt.paused_seconds += clock() - handed
                                attempt.chunks += 1
                elif type(step) is Deliver:
                    for chunk in step.answer.chunks:
                        yield backend.copy(chunk)
                    value = True
                else:
                    value = await aperform(step, call, backend, plan, until)
                resume = flow.send
            except BaseException as error:
                value = whose(error)
                resume = thrower(flow, value)
                await aclose(source)  # first the attempt inside it ends, then the call
    except StopIteration:
        pass
    finally:
        del value
        await aclose(source)


def perform(step: Any, call: Call, backend: Backend, plan: Plan, until: Until) -> Any:
    """Do what *step* says, waiting in this thread."""
    kind = type(step)
    if kind is Attempt or kind is Call:
        attempt = step if kind is Attempt else None
        _allow(attempt, call, plan, until)
        return _open(call, attempt, backend) if call.stream else backend.send(call, attempt)
    if kind is Wait:
        return plan.sleep(affordable(step, plan, until.deadline))
    if kind is Ask:
        return step.run()
    if kind is Deliver:
        return _deliver(step.answer.response, backend)
    if kind is Join:
        drive = stream if call.stream else _once
        return plan.flights.join(step.share, call, partial(drive, step.flow, call, backend, plan), backend.copy)
    if kind is Relay:
        return step.source.whole()
    raise TypeError(f"{step!r} is not a step")


async def aperform(step: Any, call: Call, backend: Backend, plan: Plan, until: Until) -> Any:
    """Do what *step* says, awaiting."""
    kind = type(step)
    if kind is Attempt or kind is Call:
        attempt = step if kind is Attempt else None
        left = _allow(attempt, call, plan, until)
        if not call.stream:
            sending = backend.asend(call, attempt)
            return await (sending if left is None else within(left, sending))
        if left is None:
            return await _aopen(call, attempt, backend)
        relay = await within(left, _aopen(call, attempt, backend))
        relay.source = _Paced(relay.source, partial(_patience, attempt, call, plan, until))
        return relay
    if kind is Wait:
        return await asyncio.sleep(affordable(step, plan, until.deadline))
    if kind is Ask:
        return await step.arun()
    if kind is Deliver:
        return _deliver(step.answer.response, backend)
    if kind is Join:
        drive = astream if call.stream else _aonce
        return plan.flights.ajoin(step.share, call, partial(drive, step.flow, call, backend, plan), backend.copy)
    if kind is Relay:
        return await step.source.whole()
    raise TypeError(f"{step!r} is not a step")


def _deliver(response: Response, backend: Backend) -> bool:
    """A whole answer; who gave it may give it again, so that the caller gets a copy."""
    if response.raw is not None:
        response.raw = backend.copy(response.raw)
    return True


def _allow(attempt: Attempt | None, call: Call, plan: Plan, until: Until) -> float | None:
    """How long what is sent now may take; *attempt* keeps it for its backend."""
    if call.timeout_seconds is None and until.deadline is None:
        return None
    left = _patience(attempt, call, plan, until)
    if left == 0.0:
        raise Refused("the call's deadline has passed")
    if attempt is not None:
        attempt.timeout_seconds = left
    return left


def _patience(attempt: Attempt | None, call: Call, plan: Plan, until: Until) -> float | None:
    """How long *attempt* may take from now; where the framework makes the attempts, how long the whole call may."""
    timeout = None if attempt is None else call.timeout_seconds
    if until.deadline is None:
        return timeout
    left = max(0.0, until.deadline - plan.clock())
    return left if timeout is None else min(left, timeout)


def affordable(wait: Wait, plan: Plan, deadline: float | None) -> float:
    """How long to sleep; a wait that would outlast the call's deadline, or everything, is refused."""
    seconds = max(0.0, wait.seconds)
    if not seconds < float("inf"):
        raise Refused("a plugin would wait for ever")
    if deadline is not None and plan.clock() + seconds > deadline:
        raise Refused(f"waiting {seconds:.3g} s would outlast the call's deadline", seconds)
    return seconds


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    """What *awaitable* returns, or ``TimedOut``."""
    try:
        async with asyncio.timeout(seconds) as scope:
            return await awaitable
    except TimeoutError:
        if scope.expired():
            raise TimedOut(f"the provider said nothing for {seconds:.3g} s") from None
        raise


class _Paced:
    """*source*, each next chunk within the time that is left."""

    __slots__ = ("left", "source")

    def __init__(self, source: Any, left: Callable[[], float | None]) -> None:
        self.source, self.left = source, left

    def __aiter__(self) -> _Paced:
        return self

    async def __anext__(self) -> Any:
        left = self.left()
        return await (anext(self.source) if left is None else within(left, anext(self.source)))

    async def aclose(self) -> None:
        await aclose(self.source)


def _open(call: Call, attempt: Attempt | None, backend: Backend) -> Relay:
    """Open a stream and read up to the first chunk that says something: until there failover is invisible."""
    source, head = iter(backend.stream(call, attempt)), []
    try:
        for chunk in source:
            head.append(chunk)
            if backend.says(chunk):
                return Relay(head, source, attempt)
        raise EmptyAnswer("the stream ended before it said anything")
    except BaseException:
        close(source)
        raise


async def _aopen(call: Call, attempt: Attempt | None, backend: Backend) -> Relay:
    source, head = aiter(backend.astream(call, attempt)), []
    try:
        async for chunk in source:
            head.append(chunk)
            if backend.says(chunk):
                return Relay(head, source, attempt)
        raise EmptyAnswer("the stream ended before it said anything")
    except BaseException:
        await aclose(source)
        raise


def thrower(flow: Flow, error: BaseException) -> Callable[[Any], Any]:
    """How to tell *flow*: a failure is thrown in; a caller who goes away wins over a hook that swallows it."""
    return flow.throw if isinstance(error, Exception) else partial(_stop, flow)


def _stop(flow: Flow, gone: BaseException) -> None:
    try:
        with suppress(StopIteration, Refused):
            flow.throw(gone)
        while getgeneratorstate(flow) != GEN_CLOSED:
            with suppress(RuntimeError):  # a hook that swallows this too is left behind
                flow.close()
        raise gone
    finally:
        del gone  # its traceback holds this frame


def whose(error: BaseException) -> BaseException:
    """A ``CancelledError`` that nobody asked this task for is somebody else's: a failure of what was awaited."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            foreign = ForeignCancel("what was awaited was cancelled, but not by the caller")
            foreign.__cause__ = error
            return foreign
    return error


def _once(flow: Flow, call: Call, backend: Backend, plan: Plan, until: Until) -> Iterator[Any]:
    yield run(flow, call, backend, plan, until)


async def _aonce(flow: Flow, call: Call, backend: Backend, plan: Plan, until: Until) -> AsyncIterator[Any]:
    yield await arun(flow, call, backend, plan, until)


def close(source: Any) -> None:
    """Close *source* if it can be. It has said what it had to: a failure to close changes nothing."""
    if (closes := getattr(source, "close", None)) is not None:
        with suppress(Exception):
            closes()


async def aclose(source: Any) -> None:
    """Close the async *source* if it can be."""
    if (closes := getattr(source, "aclose", None)) is not None:
        with suppress(Exception):
            await closes()
