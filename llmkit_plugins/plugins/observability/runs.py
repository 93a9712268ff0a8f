"""One span per tree of runs (a framework's chain, agent or graph), so that its calls form one trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opentelemetry.trace import Span, Status, StatusCode

from llmkit_plugins.call import Call
from llmkit_plugins.engine.lifecycle import outcome_of
from llmkit_plugins.plugins.observability import genai

if TYPE_CHECKING:
    from llmkit_plugins.plugins.observability.tracing import Tracing

MOST = 10_000
"""How many runs are remembered; beyond that the oldest tree, whose end was never reported, ends."""


@dataclass(slots=True, eq=False)
class _Tree:
    root: str
    span: Span
    runs: set[str] = field(default_factory=set)


class RunSpans:
    """The runs under way, by id, and the span of the tree each belongs to.

    A tree has a span only if none is current when it begins: else its calls are in the application's own trace anyway.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._trees: dict[str, _Tree] = {}

    def begin(self, run: str, parent: str | None, name: str | None) -> None:
        """A *run* called *name* began, within *parent* or as the root of a tree; repeated reports are ignored."""
        if run in self._trees or self.join(run, parent):
            return
        title = genai.RUN if name is None else f"{genai.RUN} {name}"
        span = self._tracing.root(title, {genai.OPERATION: genai.RUN})
        if span is not None:
            self._trees[run] = _Tree(run, span, {run})

    def join(self, run: str, parent: str | None) -> bool:
        """A *run* began that can only be part of a tree, such as a model's. False if *parent* is in none."""
        tree = None if parent is None else self._trees.get(parent)
        if tree is None:
            return False
        self._trees[run] = tree
        tree.runs.add(run)
        if len(self._trees) > MOST:
            self.end(next(iter(self._trees.values())).root)
        return True

    def end(self, run: str, error: BaseException | None = None) -> None:
        """A run ended, with *error* if any, and its tree if it is the root. Repeated reports are ignored."""
        tree = self._trees.pop(run, None)
        if tree is None:
            return
        tree.runs.discard(run)
        if run == tree.root:
            for left in list(tree.runs):  # whose end was never reported
                self._trees.pop(left, None)
            _finish(tree.span, error)

    def span_of(self, call: Call) -> Span | None:
        """The span of the tree that *call*, whose id is that of its run, belongs to."""
        tree = self._trees.get(call.id)
        return None if tree is None else tree.span

    def __len__(self) -> int:
        return len(self._trees)


def _finish(span: Span, error: BaseException | None) -> None:
    """End *span*. A cancellation is not an error; an error's text is never recorded."""
    span.set_attribute("llmkit.outcome", "ok" if error is None else outcome_of(error))
    if isinstance(error, Exception):
        span.set_attribute(genai.ERROR_TYPE, type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR))
    span.end()
