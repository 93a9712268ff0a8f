"""What a hook may yield or return: a ``pre`` hook yields two kinds of step, performed by the host (sync or async), and
returns two kinds of result; ``route`` tells which targets are better."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmkit_plugins.call import Response, Target
    from llmkit_plugins.engine.flights import Flight


@dataclass(slots=True)
class Wait:
    """Yielded: let *seconds* pass, then resume the hook. If that would pass the call's deadline, ``Refused`` is raised
    in the hook."""

    seconds: float


@dataclass(slots=True)
class Ask:
    """Yielded: one I/O operation in its sync and async form. The hook resumes with its result; anything it raises is
    raised in the hook."""

    run: Callable[[], Any]
    arun: Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class Answer:
    """Returned by ``pre_request``: answers the call with *response*, without calling a provider. *chunks* is its
    streamed form, required for a streamed call. The same answer may be returned repeatedly: each caller gets a copy.
    """

    response: Response
    chunks: Iterable[Any] = ()


@dataclass(slots=True)
class Share:
    """Returned by ``pre_request``: calls in flight with an equal *key* are served by one upstream.

    The key must cover everything that can change the answer or who may see it. A flight can be joined while it is at
    most *max_age_seconds* old and holds at most *max_chunks* and *max_bytes* (by estimate); after that, the next caller
    starts another. With *max_flights* already in flight, a call that would start one more is not shared. ``None`` means
    no bound. If this call starts a flight that ends well, *landed* is called once; the answer is in the flight's
    ``log``. It must not block.
    """

    key: Hashable
    max_age_seconds: float | None = None
    max_chunks: int | None = None
    max_bytes: int | None = None
    max_flights: int | None = None
    landed: Callable[[Flight[Any]], None] | None = None


@dataclass(slots=True)
class Prefer:
    """Returned by ``route``: use one of *targets* rather than of *others*.

    Later hooks see only *targets*. If they leave none of these, or one of them refuses the call, they are asked again
    about all: *targets* and then *others*.
    """

    targets: Sequence[Target]
    others: Sequence[Target]
