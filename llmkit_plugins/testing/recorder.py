"""A plugin that records everything and changes nothing, to see what its neighbours were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from threading import RLock

from llmkit_plugins.call import Attempt, Call, Response, Target
from llmkit_plugins.hookspecs import hookimpl


class Recorder:
    """Counts what begins and how it ends; whatever has begun and not ended is ``open``, which must be empty in the end.

    ``counts`` has ``request``, ``attempt``, and for each outcome ``request ok``, ``request shared``, ``attempt
    cancelled`` …; ``errors`` has the types of the errors that callers received.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.open: Counter[Hashable] = Counter()
        self.calls: list[Call] = []
        self.attempts: list[Attempt] = []
        self.errors: list[type[BaseException]] = []
        self._lock = RLock()

    def _begin(self, what: str, key: Hashable) -> None:
        self._note(what, key, 1)

    def _end(self, what: str, key: Hashable) -> None:
        self._note(what, key, -1)

    def _note(self, what: str, key: Hashable, step: int) -> None:
        with self._lock:
            self.counts[what] += 1
            self.open[key] += step
            if not self.open[key]:
                del self.open[key]

    @hookimpl
    def llmkit_pre_request(self, call: Call) -> None:
        self.calls.append(call)
        self._begin("request", call.id)

    @hookimpl
    def llmkit_route(self, call: Call, targets: Sequence[Target]) -> Sequence[Target]:  # noqa: ARG002
        with self._lock:
            self.counts["route"] += 1
        return targets

    @hookimpl
    def llmkit_pre_attempt(self, call: Call, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        self._begin("attempt", (call.id, attempt.number))

    @hookimpl
    def llmkit_post_attempt(self, call: Call, attempt: Attempt) -> None:
        self._end(f"attempt {attempt.outcome}", (call.id, attempt.number))

    @hookimpl
    def llmkit_post_response(self, call: Call, response: Response) -> None:
        self._end("request ok" if response.shared is None else "request shared", call.id)

    @hookimpl
    def llmkit_error(self, call: Call, error: BaseException) -> None:
        self.errors.append(type(error))  # the error itself would keep the caller's frames alive
        self._end(f"request {call.outcome}", call.id)
