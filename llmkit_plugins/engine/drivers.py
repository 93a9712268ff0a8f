"""Four loops that perform the steps of a lifecycle: sync or async, for whole answers or chunks."""

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
    """Drive *flow* in this thread and return the whole answer."""
    resume = send = flow.send
    value: Any = None
    try:
        while True:
            step = resume(value)
            try:
                resume, value = send, perform(step, call, backend, plan, until)
            except BaseException as error:
                resume, value = thrower(flow, error), error  # thrown outside this block, or later errors chain to it
    except StopIteration as end:
        return end.value
    finally:
        del value  # a retained error would keep this frame alive


async def arun(flow: Flow, call: Call, backend: Backend, plan: Plan, until: Until) -> Any:
    """Drive *flow* in this task and return the whole answer."""
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
    """Drive *flow* in this thread, yielding chunks."""
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
                    close(source)  # ends the attempt inside it before the call ends
                except BaseException as gone:
                    resume, value = thrower(flow, gone), gone
    except StopIteration:
        pass
    finally:
        del value
        close(source)


async def astream(flow: Flow, call: Call, backend: Backend, plan: Plan, until: Until) -> AsyncIterator[Any]:
    """Drive *flow* in this task, yielding chunks."""
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
                    await aclose(source)  # ends the attempt inside it before the call ends
                except BaseException as gone:
                    value = whose(gone)
                    resume = thrower(flow, value)
    except StopIteration:
        pass
    finally:
        del value
        await aclose(source)


def perform(step: Any, call: Call, backend: Backend, plan: Plan, until: Until) -> Any:
    """Perform *step*, blocking this thread."""
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
    """Perform *step* without blocking the event loop."""
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
    """How to copy a chunk for each caller. ``same`` if there is nothing to copy, so that drivers can skip the call: it
    would be a twentieth of the cost of a shared chunk."""
    return same if getattr(backend.copy, "__func__", None) is Backend.copy else backend.copy


async def _tell_all(flight: Any, relay: Relay) -> None:
    """Append each chunk to the log of *flight*, from which its callers read."""
    try:
        flight.log += relay.head
        flight.wake()
        await flight.hear(relay.source)
    finally:
        if relay.attempt is not None:
            relay.attempt.chunks += len(flight.log)
        await aclose(relay.source)  # ends the attempt inside it before the call ends


def no_step(step: Any) -> TypeError:
    """The error for a hook that yields something other than a step; its value is left out of the message."""
    return TypeError(f"an instance of {type(step).__name__} is not a step")


def _own(response: Response, backend: Backend) -> Response:
    """A copy of *response*: the plugin that returned it may return it again."""
    raw = None if response.raw is None else backend.copy(response.raw)
    return Response(raw, response.attempt, response.shared)


def thrower(flow: Flow, error: BaseException) -> Callable[[Any], Any]:
    """How to throw *error* into *flow*: if the caller went away, a hook cannot swallow it."""
    return flow.throw if isinstance(error, Exception) else partial(_stop, flow)


def _stop(flow: Flow, gone: BaseException) -> None:
    try:
        with suppress(StopIteration, Refused):
            flow.throw(gone)
        with suppress(RuntimeError):  # a hook that swallows GeneratorExit too is abandoned
            flow.close()
        raise gone
    finally:
        del gone  # its traceback holds this frame


def whose(error: BaseException) -> BaseException:
    """*error*, or ``ForeignCancel`` for a ``CancelledError`` when nobody cancelled this task: its awaitable did."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            foreign = ForeignCancel("what was awaited was cancelled, but not by the caller")
            foreign.__cause__ = error
            return foreign
    return error
