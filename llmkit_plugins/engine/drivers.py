"""Four loops that perform the steps of a lifecycle: whole or in chunks, in this thread or awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from llmkit_plugins.call import Attempt, Call
from llmkit_plugins.engine.lifecycle import Deliver, Flow, Join, Relay
from llmkit_plugins.engine.sharing import AsyncSeat
from llmkit_plugins.errors import EmptyAnswer, ForeignCancel, Refused, TimedOut
from llmkit_plugins.steps import Ask, Wait

if TYPE_CHECKING:
    from llmkit_plugins.backend import Backend
    from llmkit_plugins.engine.plan import Plan

T = TypeVar("T")
Resume = Callable[[Any], Any]


def run(flow: Flow, call: Call, backend: Backend, plan: Plan, deadline: float | None) -> Any:
    """Drive *flow* in this thread, for the whole answer."""
    resume: Resume = flow.send
    value: Any = None
    try:
        while True:
            step = resume(value)
            try:
                resume, value = flow.send, perform(step, call, backend, plan, deadline)
            except BaseException as error:
                resume, value = thrower(flow, error), error  # thrown in outside this block, or later errors chain to it
    except StopIteration as end:
        return end.value
    finally:
        del value  # an error that we keep would keep our frame


async def arun(flow: Flow, call: Call, backend: Backend, plan: Plan, deadline: float | None) -> Any:
    """Drive *flow* in this task, for the whole answer."""
    resume: Resume = flow.send
    value: Any = None
    try:
        while True:
            step = resume(value)
            try:
                resume, value = flow.send, await aperform(step, call, backend, plan, deadline)
            except BaseException as error:
                value = whose(error)
                resume = thrower(flow, value)
    except StopIteration as end:
        return end.value
    finally:
        del value


def stream(flow: Flow, call: Call, backend: Backend, plan: Plan, deadline: float | None) -> Iterator[Any]:
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
                elif type(step) is Deliver:
                    yield from step.answer.chunks
                    value = True
                else:
                    value = perform(step, call, backend, plan, deadline)
                resume = flow.send
            except BaseException as error:
                resume, value = thrower(flow, error), error
    except StopIteration:
        pass
    finally:
        del value
        close(source)


async def astream(flow: Flow, call: Call, backend: Backend, plan: Plan, deadline: float | None) -> AsyncIterator[Any]:
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
                    if type(source) is AsyncSeat:  # its ``__anext__``, in place: 0.2 µs a chunk less
                        at, log, flight, copy = 0, source.log, source.flight, source.copy
                        while True:
                            if at < len(log):
                                source.at = at = at + 1
                                yield copy(log[at - 1])
                            elif flight.over and flight.ended():
                                break
                            else:
                                await (flight.news() if deadline is None else flight.news_before(deadline))
                    elif attempt is None:
                        async for chunk in source:
                            yield chunk
                    else:
                        async for chunk in _paced(source, call, plan, deadline):
                            handed = clock()
                            try:
                                yield chunk
                            finally:
                                attempt.paused_seconds += clock() - handed
                elif type(step) is Deliver:
                    for chunk in step.answer.chunks:
                        yield chunk
                    value = True
                else:
                    value = await aperform(step, call, backend, plan, deadline)
                resume = flow.send
            except BaseException as error:
                value = whose(error)
                resume = thrower(flow, value)
    except StopIteration:
        pass
    finally:
        del value
        await aclose(source)


def perform(step: Any, call: Call, backend: Backend, plan: Plan, deadline: float | None) -> Any:
    """Do what *step* says, waiting in this thread."""
    kind = type(step)
    if kind is Attempt or kind is Call:
        attempt = _allow(step, call, plan, deadline)
        return _open(call, attempt, backend) if call.stream else backend.send(call, attempt)
    if kind is Wait:
        return plan.sleep(affordable(step, plan, deadline))
    if kind is Ask:
        return step.run()
    if kind is Deliver:
        return True
    if kind is Join:
        drive = stream if call.stream else _once
        return plan.flights.join(step.share, call, partial(drive, step.flow, call, backend, plan, None), backend.copy)
    if kind is Relay:
        return step.source.whole()
    raise TypeError(f"{step!r} is not a step")


async def aperform(step: Any, call: Call, backend: Backend, plan: Plan, deadline: float | None) -> Any:
    """Do what *step* says, awaiting."""
    kind = type(step)
    if kind is Attempt or kind is Call:
        attempt = _allow(step, call, plan, deadline)
        sending = _aopen(call, attempt, backend) if call.stream else backend.asend(call, attempt)
        if attempt is None or attempt.timeout_seconds is None:
            return await sending
        return await within(attempt.timeout_seconds, sending)
    if kind is Wait:
        return await asyncio.sleep(affordable(step, plan, deadline))
    if kind is Ask:
        return await step.arun()
    if kind is Deliver:
        return True
    if kind is Join:
        drive = astream if call.stream else _aonce
        return plan.flights.ajoin(step.share, call, partial(drive, step.flow, call, backend, plan, None), backend.copy)
    if kind is Relay:
        return await step.source.whole()
    raise TypeError(f"{step!r} is not a step")


def _allow(step: Any, call: Call, plan: Plan, deadline: float | None) -> Attempt | None:
    """The attempt to send (None: the whole call is), with the time it has."""
    if type(step) is Call:
        return None
    attempt: Attempt = step
    if call.timeout_seconds is not None or deadline is not None:
        attempt.timeout_seconds = _patience(call, plan, deadline)
    return attempt


def _patience(call: Call, plan: Plan, deadline: float | None) -> float | None:
    if deadline is None:
        return call.timeout_seconds
    left = max(0.0, deadline - plan.clock())
    return left if call.timeout_seconds is None else min(left, call.timeout_seconds)


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


async def _paced_slowly(source: Any, call: Call, plan: Plan, deadline: float | None) -> AsyncIterator[Any]:
    while True:
        left = _patience(call, plan, deadline)
        try:
            chunk = await within(left, anext(source)) if left is not None else await anext(source)
        except StopAsyncIteration:
            return
        yield chunk


def _paced(source: Any, call: Call, plan: Plan, deadline: float | None) -> AsyncIterator[Any]:
    """*source*, each next chunk within the time the attempt has, where it has one."""
    unbounded = call.timeout_seconds is None and deadline is None
    paced: AsyncIterator[Any] = source if unbounded else _paced_slowly(source, call, plan, deadline)
    return paced


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
        flow.throw(gone)
    except StopIteration:
        pass
    else:
        flow.close()
    raise gone


def whose(error: BaseException) -> BaseException:
    """A ``CancelledError`` that nobody asked this task for is somebody else's: a failure of what was awaited."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            foreign = ForeignCancel("what was awaited was cancelled, but not by the caller")
            foreign.__cause__ = error
            return foreign
    return error


def _once(flow: Flow, call: Call, backend: Backend, plan: Plan, deadline: float | None) -> Iterator[Any]:
    yield run(flow, call, backend, plan, deadline)


async def _aonce(flow: Flow, call: Call, backend: Backend, plan: Plan, deadline: float | None) -> AsyncIterator[Any]:
    yield await arun(flow, call, backend, plan, deadline)


def close(source: Any) -> None:
    """Close *source* if it can be."""
    if (closes := getattr(source, "close", None)) is not None:
        closes()


async def aclose(source: Any) -> None:
    """Close the async *source* if it can be."""
    if (closes := getattr(source, "aclose", None)) is not None:
        await closes()
