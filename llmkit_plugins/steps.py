"""What a hook may say: a ``pre`` hook yields two steps, which the host performs, waiting or awaiting, and returns two
ends; ``route`` tells which targets are better."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmkit_plugins.call import Response, Target
    from llmkit_plugins.engine.flights import Flight


@dataclass(slots=True)
class Wait:
    """Yielded: let *seconds* pass, then resume the hook. Past the call's deadline it raises ``Refused`` in the hook."""

    seconds: float


@dataclass(slots=True)
class Ask:
    """Yielded: one piece of I/O in its two forms; the hook resumes with what it returned, or is thrown what it
    raised."""

    run: Callable[[], Any]
    arun: Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class Answer:
    """Returned by ``pre_request``: *response* is the answer, nobody need be asked. *chunks* is its streamed form, and
    needed for a streamed call. Who gave it may give it again: each caller gets a copy."""

    response: Response
    chunks: Iterable[Any] = ()


@dataclass(slots=True)
class Share:
    """Returned by ``pre_request``: calls in flight with an equal *key* are served by one upstream.

    The key must cover everything that can change the answer or who may see it. A flight is joined while it is at most
    *max_age_seconds* old and holds at most *max_chunks* and *max_bytes* (by estimate); after that the next caller
    starts another. Beyond *max_flights* under way, a call that would start one more goes alone. ``None`` means no
    bound. Where this call starts a flight that ends well, *landed* is told, once; the answer is in the flight's
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
    """Returned by ``route``: one of *targets* rather than of *others*.

    The hooks that come after see *targets* only; where they leave none of these, or one of them refuses the call, they
    are asked again, about all: *targets* and then *others*.
    """

    targets: Sequence[Target]
    others: Sequence[Target]
