"""The attempts of a Router, or of an SDK call with fallbacks: each is followed from sending to its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from llmkit_litellm import compat, reading
from llmkit_litellm.errors import as_litellm, original
from llmkit_litellm.journey import Journey, journey_under_way, sending
from llmkit_litellm.streams import AttemptStream, attempt_stream
from llmkit_litellm.wire import with_headers
from llmkit_plugins.engine.handle import Handle
from llmkit_plugins.errors import Refused


def sent_on_the_way(kwargs: Mapping[str, Any]) -> Journey | None:
    """The journey that *kwargs* are sent for; None if they come from neither a Router of ours nor an SDK call with
    fallbacks.

    A Router names its deployment, except in its sync ``text_completion``, which passes on the same prompt object.
    """
    journey = journey_under_way()
    if journey is None or journey.book.holds_all or (kwargs.get("model_info") or {}).get("id"):
        return journey
    return journey if journey.begun is not None and kwargs.get("prompt") is journey.call.messages else None


def send(journey: Journey, send_it: Callable[[], Any], kwargs: Mapping[str, Any]) -> Any:
    """Send an attempt of *journey*: the one begun at selection, else one that begins now."""
    if journey.begun is None:
        with _refusals(journey):
            journey.begin(journey.book.sent(kwargs))
    handle = journey.take()
    try:
        with sending():
            answer = with_headers(send_it, handle.attempt)()
        if compat.is_stream(answer):
            return _stream(journey, handle, answer).open()
        return _finish(handle, answer)
    except BaseException as error:
        _fail(journey, handle, error)
        raise


async def asend(journey: Journey, send_it: Callable[[], Awaitable[Any]], kwargs: Mapping[str, Any]) -> Any:
    """The same, async."""
    if journey.begun is None:
        with _refusals(journey):
            await journey.abegin(journey.book.sent(kwargs))
    handle = journey.take()
    try:
        with sending():
            answer = await with_headers(send_it, handle.attempt)()
        if compat.is_stream(answer):
            return await _stream(journey, handle, answer).aopen()
        return _finish(handle, answer)
    except BaseException as error:
        _fail(journey, handle, error)
        raise


@contextmanager
def _refusals(journey: Journey) -> Iterator[None]:
    try:
        yield
    except Refused as refusal:
        raise as_litellm(refusal, journey.call.model) from refusal


def _fail(journey: Journey, handle: Handle, error: BaseException) -> None:
    handle.fail(original(error))
    if isinstance(error, Exception):
        journey.failure = error


def _stream(journey: Journey, handle: Handle, answer: Any) -> AttemptStream:
    stream = attempt_stream(answer, handle, journey.kit.clock)
    journey.streams.append(stream)
    return stream


def _finish(handle: Handle, answer: Any) -> Any:
    reading.learn(handle.attempt, answer)
    handle.finish(answer)
    return answer
