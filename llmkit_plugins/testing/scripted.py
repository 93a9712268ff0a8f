"""A backend that plays a script in this process: what each target says, when it fails, how long it takes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from llmkit_plugins.backend import Backend
from llmkit_plugins.call import Attempt, Call, Usage
from llmkit_plugins.errors import ErrorKind

Line = Any
"""One line of a script: a text to say (an empty one says nothing), a :class:`Pause`, a :class:`Last`, an exception to
raise (its class, or an instance), or a function to call, which returns any of these or raises."""


class Failure(Exception):
    """A provider error of *kind* that asks the caller to stay away for *retry_after* seconds."""

    def __init__(self, kind: ErrorKind | None = "server", retry_after: float | None = None) -> None:
        super().__init__(kind, retry_after)
        self.kind, self.retry_after = kind, retry_after


@dataclass(frozen=True, slots=True)
class Pause:
    """The provider pauses for *seconds*."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Last:
    """The provider's last text: *text*, with the usage and finish reason of the answer."""

    text: str = ""
    usage: Usage = field(default_factory=lambda: Usage(input_tokens=5, output_tokens=3))
    finish_reason: str = "stop"


class ScriptedBackend(Backend):
    """Sends nothing: each target plays its lines in *script* (by name), or *default*.

    A streamed answer is one chunk per text; a whole answer is all texts joined. Under asyncio, each line is preceded by
    one turn of the event loop. *sleep* performs the pauses of sync answers. The backend counts what happened: ``sent``
    by target, and how many answers were begun (``opened``), how many of these ended (``closed``), and how many of those
    because the caller was gone (``gone``).
    """

    def __init__(
        self,
        script: Mapping[str, Sequence[Line]] | None = None,
        *,
        default: Sequence[Line] = ("a", "b", Last("c")),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.script, self.default = dict(script or {}), default
        self.sent: Counter[str] = Counter()
        self.opened = self.closed = self.gone = 0
        self._sleep = sleep

    def send(self, call: Call, attempt: Attempt | None) -> str:
        return "".join(self.stream(call, attempt))

    async def asend(self, call: Call, attempt: Attempt | None) -> str:
        return "".join([chunk async for chunk in self.astream(call, attempt)])

    def stream(self, call: Call, attempt: Attempt | None) -> Iterator[str]:
        with self._counted():
            for line in self._lines(call, attempt):
                said = _perform(line, attempt)
                if isinstance(said, Pause):
                    self._sleep(said.seconds)
                else:
                    yield said

    async def astream(self, call: Call, attempt: Attempt | None) -> AsyncIterator[str]:
        with self._counted():
            for line in self._lines(call, attempt):
                await asyncio.sleep(0)
                said = _perform(line, attempt)
                if isinstance(said, Pause):
                    await asyncio.sleep(said.seconds)
                else:
                    yield said

    def says(self, chunk: str) -> bool:
        return chunk != ""

    def _lines(self, call: Call, attempt: Attempt | None) -> Sequence[Line]:  # noqa: ARG002
        name = "" if attempt is None else attempt.target.name
        self.sent[name] += 1
        return self.script.get(name, self.default)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.opened += 1
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self.gone += 1
            raise
        finally:
            self.closed += 1


def _perform(line: Line, attempt: Attempt | None) -> Any:
    while callable(line) and not isinstance(line, type):
        line = line()
    if isinstance(line, BaseException | type):
        raise line
    if not isinstance(line, Last):
        return line
    if attempt is not None:
        attempt.usage, attempt.finish_reason = line.usage, line.finish_reason
    return line.text
