"""Four loops that perform the steps of a lifecycle: whole or in chunks, in this thread or awaited."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from llmkit_plugins.backend import Backend
from llmkit_plugins.call import Attempt, Call, Response
from llmkit_plugins.engine.bounds import Until, affordable, allow, patience, within
from llmkit_plugins.engine.lifecycle import Deliver, Flow, Join, Relay
from llmkit_plugins.engine.seats import Copy, TaskSeat, ThreadSeat, same
from llmkit_plugins.engine.streams import Paced, aclose, aopen_stream, close, open_stream
from llmkit_plugins.errors import ForeignCancel, Refused
from llmkit_plugins.steps import Ask, Wait

if TYPE_CHECKING:
    from llmkit_plugins.engine.plan import Plan


def run(flow: Flow, call: Call, backend: Backend, plan: Plan, until: Until) -> Any:
    """Drive *flow* in this thread, for the whole answer."""
    resume = send = flow.send
    value: Any = None
    try:
        while True:
            step = resume(value)
            try:
                resume, value = send, perform(step, call, backend, plan, until)
            except BaseException as error:
                resume, value = thrower(flow, error), error  # thrown in outside this block, or later errors chain to it
    except StopIteration as end:
        return end.value
    finally:
        del value  # an error that we keep would keep our frame


async def arun(flow: Flow, call: Call, backend: Backend, plan: Plan, until: Until) -> Any:
    """Drive *flow* in this task, for the whole answer."""
    resume = send = flow.send
    value: Any = None
    try:
        while True:
            step = resume(value)
            try:
                resume, value = send, await aperform(step, call, backend, plan, until)
            except BaseException as error:
                value = whose(error)
                resume = thrower(flow, value)
    except StopIteration as end:
        return end.value
    finally:
        del value


def stream(flow: Flow, call: Call, backend: Backend, plan: Plan, until: Until) -> Iterator[Any]:
    """Drive *flow* in this thread, handing over chunks."""
    resume = send = flow.send
    value: Any = None
    source, clock = None, plan.clock
    try:
        while True:
            step = resume(value)
            try:
                value = None
                if type(step) is ThreadSeat:
                    yield from step
                elif type(step) is Relay:
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
                    value = _own(step.answer.response, backend)
                else:
                    value = perform(step, call, backend, plan, until)
                resume = send
            except BaseException as error:
                resume, value = thrower(flow, error), error
                try:
                    close(source)  # first the attempt inside it ends, then the call
                except BaseException as gone:
                    resume, value = thrower(flow, gone), gone
    except StopIteration:
        pass
    finally:
        del value
        close(source)


async def astream(flow: Flow, call: Call, backend: Backend, plan: Plan, until: Until) -> AsyncIterator[Any]:
    """Drive *flow* in this task, handing over chunks."""
    resume = send = flow.send
    value: Any = None
    source, clock = None, plan.clock
    try:
        while True:
            step = resume(value)
            try:
                value = None
                if type(step) is TaskSeat:
                    at, log, flight, deadline, copy = 0, step.log, step.flight, until.deadline, step.copy
                    waiting, loop = flight.waiting, flight.loop
                    try:
                        while True:
                            if at < len(log):
                                chunk = log[at]
                                at += 1
                                yield chunk if copy is same else copy(chunk)
                            elif flight.over and flight.ended():
                                break
                            elif deadline is None:
                                news: Future[None] = Future(loop=loop)
                                waiting.append(news)
                                await news
                            else:
                                await flight.news_before(deadline)
                    finally:
                        step.at = at
                elif type(step) is Relay:
                    source, attempt = step.source, step.attempt
                    for chunk in step.head:
                        handed = clock()
                        try:
                            yield chunk
                        finally:
                            if attempt is not None:
                                attempt.paused_seconds += clock() - handed
                                attempt.chunks += 1
                    if attempt is None:
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
                    value = _own(step.answer.response, backend)
                else:
                    value = await aperform(step, call, backend, plan, until)
                resume = send
            except BaseException as error:
                value = whose(error)
                resume = thrower(flow, value)
                try:
                    await aclose(source)  # first the attempt inside it ends, then the call
                except BaseException as gone:
                    value = whose(gone)
                    resume = thrower(flow, value)
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
        if call.timeout_seconds is not None or until.deadline is not None:
            allow(attempt, call, plan, until)
        return open_stream(call, attempt, backend, plan.bugs) if call.stream else backend.send(call, attempt)
    if kind is Join:
        drive = stream if call.stream else run
        return plan.flights.join(step.share, call, partial(drive, step.flow, call, backend, plan), _copying(backend))
    if kind is ThreadSeat:
        return step.whole()
    if kind is Wait:
        return plan.sleep(affordable(step, plan, until.deadline))
    if kind is Ask:
        return step.run()
    if kind is Deliver:
        return _own(step.answer.response, backend)
    raise no_step(step)


async def aperform(step: Any, call: Call, backend: Backend, plan: Plan, until: Until) -> Any:
    """Do what *step* says, awaiting."""
    kind = type(step)
    if kind is Attempt or kind is Call:
        attempt = step if kind is Attempt else None
        bounded = call.timeout_seconds is not None or until.deadline is not None
        left = allow(attempt, call, plan, until) if bounded else None
        if not call.stream:
            sending = backend.asend(call, attempt)
            return await (sending if left is None else within(left, sending))
        if left is None:
            return await aopen_stream(call, attempt, backend, plan.bugs)
        relay = await within(left, aopen_stream(call, attempt, backend, plan.bugs))
        relay.source = Paced(relay.source, partial(patience, attempt, call, plan, until))
        return relay
    if kind is Join:
        return plan.flights.ajoin(step.share, call, partial(arun, step.flow, call, backend, plan), _copying(backend))
    if kind is TaskSeat:
        return await step.whole()
    if kind is Relay:
        return await _tell_all(until, step)
    if kind is Wait:
        return await asyncio.sleep(affordable(step, plan, until.deadline))
    if kind is Ask:
        return await step.arun()
    if kind is Deliver:
        return _own(step.answer.response, backend)
    raise no_step(step)


def _copying(backend: Backend) -> Copy:
    """How each caller gets a chunk of his own. Where there is nothing to do, not even a call: it is a twentieth of what
    a shared chunk costs."""
    return same if getattr(backend.copy, "__func__", None) is Backend.copy else backend.copy


async def _tell_all(flight: Any, relay: Relay) -> None:
    """Put what comes into the log of *flight*, whose callers read it there."""
    try:
        flight.log += relay.head
        flight.wake()
        await flight.hear(relay.source)
    finally:
        if relay.attempt is not None:
            relay.attempt.chunks += len(flight.log)
        await aclose(relay.source)  # first the attempt inside it ends, then the call


def no_step(step: Any) -> TypeError:
    """The bug of a hook that yields what nobody can perform; it does not say what that says."""
    return TypeError(f"an instance of {type(step).__name__} is not a step")


def _own(response: Response, backend: Backend) -> Response:
    """A copy of *response*, which whoever gave it may give again."""
    raw = None if response.raw is None else backend.copy(response.raw)
    return Response(raw, response.attempt, response.shared)


def thrower(flow: Flow, error: BaseException) -> Callable[[Any], Any]:
    """How to tell *flow*: a failure is thrown in; a caller who goes away wins over a hook that swallows it."""
    return flow.throw if isinstance(error, Exception) else partial(_stop, flow)


def _stop(flow: Flow, gone: BaseException) -> None:
    try:
        with suppress(StopIteration, Refused):
            flow.throw(gone)
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
