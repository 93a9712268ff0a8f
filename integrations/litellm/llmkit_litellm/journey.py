"""A call on its way through a Router, and how the functions along the way find it."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Self

from llmkit_litellm import errors
from llmkit_litellm.targets import Book
from llmkit_plugins.backend import Backend
from llmkit_plugins.call import Call, Target
from llmkit_plugins.engine.handle import Handle
from llmkit_plugins.errors import ErrorKind, Refused
from llmkit_plugins.kit import LLMKit


class Reader(Backend):
    """How the attempts of a journey read LiteLLM's errors."""

    def kind(self, error: BaseException) -> ErrorKind | None:
        return errors.kind_of(error)

    def retry_after(self, error: BaseException) -> float | None:
        return errors.retry_after_of(error)


_READER = Reader()


class Journey:
    """The state of one call: the targets it tried, and the attempt that was begun but not yet sent."""

    __slots__ = ("awaits", "begun", "book", "call", "failure", "kit", "over", "streams", "tried")

    def __init__(self, kit: LLMKit, call: Call, book: Book) -> None:
        self.kit, self.call, self.book = kit, call, book
        self.awaits = True
        """Whether it runs in the caller's event loop, whose thread must not be blocked."""
        self.begun: Handle | None = None
        self.tried: set[str] = set()
        self.failure: Exception | None = None
        """The provider's last error."""
        self.streams: list[Any] = []
        """The streams of its attempts, closed at the end: perhaps nobody started reading them."""
        self.over = False

    def untried(self, targets: Sequence[Target]) -> list[Target]:
        """Those of *targets* not tried yet; if LiteLLM asks for more tries than there are, all of them again."""
        left = [target for target in targets if target.name not in self.tried]
        if not left:
            self.tried.difference_update(target.name for target in targets)
            left = list(targets)
        return left

    def begin(self, target: Target) -> None:
        """Ask the plugins about an attempt at *target*, in this thread. Raises a plugin's refusal."""
        self.give_up()
        self.begun = self.kit.attempt(self.call, target, _READER, may_wait=not self.awaits)

    async def abegin(self, target: Target) -> None:
        """The same, async: awaits where a plugin waits."""
        self.give_up()
        self.begun = await self.kit.aattempt(self.call, target, _READER)

    def take(self) -> Handle:
        """The attempt that was begun, to be sent now."""
        handle, self.begun = self.begun, None
        if handle is None:
            raise RuntimeError("no attempt was begun")
        handle.attempt.started = self.kit.clock()
        return handle

    def give_up(self, gone: BaseException | None = None) -> None:
        """End the attempt that was begun without sending it: a check of the Router's intervened, or the caller is
        *gone*."""
        handle, self.begun = self.begun, None
        if handle is None:
            return
        handle.attempt.started = None
        if gone is None or isinstance(gone, Exception):
            handle.fail(Refused("the Router did not send it"))
        else:
            handle.cancel()

    def __enter__(self) -> Self:
        self.awaits = False
        return self

    def __exit__(self, _: object, gone: BaseException | None, __: object) -> None:
        for stream in self._end(gone):
            stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _: object, gone: BaseException | None, __: object) -> None:
        for stream in self._end(gone):
            await stream.aclose()

    def _end(self, gone: BaseException | None) -> list[Any]:
        """End it; returns the streams to close. Tasks LiteLLM leaves running keep this alive: hold on to nothing."""
        self.over, self.failure = True, None
        self.give_up(gone)
        streams, self.streams = self.streams, []
        return streams


_under_way: ContextVar[Journey | None] = ContextVar("llmkit_litellm_journey", default=None)


def journey_under_way() -> Journey | None:
    """The journey that this code is running in."""
    journey = _under_way.get()
    return None if journey is None or journey.over else journey


class travelling:  # noqa: N801 - a context manager; as a class it costs a third of a generator
    """Code inside runs as part of *journey*."""

    __slots__ = ("_journey", "_token")

    def __init__(self, journey: Journey) -> None:
        self._journey = journey

    def __enter__(self) -> None:
        self._token = _under_way.set(self._journey)

    def __exit__(self, *_: object) -> None:
        _under_way.reset(self._token)


class sending:  # noqa: N801 - as above
    """Code inside is LiteLLM working on an attempt."""

    __slots__ = ("_token", "over")

    def __enter__(self) -> None:
        self.over = False
        self._token = _sending.set(self)

    def __exit__(self, *_: object) -> None:
        self.over = True
        _sending.reset(self._token)


_sending: ContextVar[sending | None] = ContextVar("llmkit_litellm_sending", default=None)


def is_sending() -> bool:
    """Whether this code runs inside a call to LiteLLM that the plugins already know about.

    What such a call leaves behind (a callback's task) has its context, but no longer runs inside it.
    """
    mark = _sending.get()
    return mark is not None and not mark.over
