"""What an integration supplies: how to send to a target, and how to read what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from llmkit_plugins.call import Attempt, Call, Target
from llmkit_plugins.errors import ErrorKind
from llmkit_plugins.provider_errors import kind_of, retry_after_of


class Backend:
    """The sending side of a framework. Subclasses override at least the ways of sending that they support.

    As it reads, a backend writes what it learns (``usage``, ``finish_reason``, ``model``, ``headers``) onto the
    attempt, so that an abandoned stream keeps what it has so far. A sync backend passes ``attempt.timeout_seconds`` to
    its client. A backend that can send ``attempt.request_headers`` does so.
    """

    targets: Sequence[Target] = ()
    """Where it can send, if it brings its own; else the kit's targets."""

    delegates = False
    """True where the framework itself routes and retries: it is then sent the whole call, with None for an attempt, and
    tells the kit of each attempt through :meth:`LLMKit.attempt`."""

    def send(self, call: Call, attempt: Attempt | None) -> Any:
        """Send and return the whole answer, waiting in this thread."""
        raise NotImplementedError(f"{type(self).__name__} cannot send synchronously")

    async def asend(self, call: Call, attempt: Attempt | None) -> Any:
        """Send and return the whole answer."""
        raise NotImplementedError(f"{type(self).__name__} cannot send asynchronously")

    def stream(self, call: Call, attempt: Attempt | None) -> Iterator[Any]:
        """Send and yield the answer in chunks, waiting in this thread."""
        raise NotImplementedError(f"{type(self).__name__} cannot stream synchronously")

    def astream(self, call: Call, attempt: Attempt | None) -> AsyncIterator[Any]:
        """Send and yield the answer in chunks."""
        raise NotImplementedError(f"{type(self).__name__} cannot stream asynchronously")

    def kind(self, error: BaseException) -> ErrorKind | None:
        """The kind of provider error that *error* is; None: it is not one but a bug, so no other target is tried."""
        return kind_of(error)

    def retry_after(self, error: BaseException) -> float | None:
        """Seconds the provider asked to be left alone, with *error*."""
        return retry_after_of(error)

    def says(self, chunk: Any) -> bool:  # noqa: ARG002
        """Whether *chunk* has content (text, a tool call, a finish reason). What comes before is held back, and
        failover still covers it."""
        return True

    def copy(self, chunk: Any) -> Any:
        """A separate chunk (or whole answer) for each caller of a shared answer; frameworks that mutate it copy."""
        return chunk
