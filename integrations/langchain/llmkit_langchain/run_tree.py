"""Reports LangChain's tree of runs to the observability plugin: the calls of an agent's run are then one trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler

from llmkit_langchain.complaints import complain
from llmkit_plugins import LLMKit


class RunTreeHandler(BaseCallbackHandler):
    """Reports chains, tools and retrievers, but only if *kit* makes spans; else LangChain need not call it for them."""

    ignore_chain = ignore_agent = ignore_retriever = True

    def __init__(self, kit: LLMKit) -> None:
        self._tree: Any = getattr(kit.plugins.get("observability"), "runs", None)
        if self._tree is not None:
            self.ignore_chain = self.ignore_agent = self.ignore_retriever = False

    def _begin_run(
        self,
        serialized: Mapping[str, Any] | None,
        _: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **told: Any,
    ) -> None:
        name = told.get("name") or (serialized or {}).get("name")
        try:
            self._tree.begin(str(run_id), None if parent_run_id is None else str(parent_run_id), name)
        except Exception:  # from a span processor; LangChain would take it as a refusal
            complain("the span of a run could not begin")

    def _end_run(self, _: Any, *, run_id: UUID, **__: Any) -> None:
        self._leave_tree(run_id)

    def _fail_run(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._leave_tree(run_id, error)

    on_chain_start: Any = _begin_run
    on_chain_end: Any = _end_run
    on_chain_error: Any = _fail_run
    on_tool_start: Any = _begin_run
    on_tool_end: Any = _end_run
    on_tool_error: Any = _fail_run
    on_retriever_start: Any = _begin_run
    on_retriever_end: Any = _end_run
    on_retriever_error: Any = _fail_run

    def _join_tree(self, run_id: UUID, parent_run_id: UUID | None) -> None:
        """A model's run began. Called only if there is a tree: an empty one, with no chain under way, is falsy."""
        if parent_run_id is not None:
            self._tree.join(str(run_id), str(parent_run_id))

    def _leave_tree(self, run_id: UUID, error: BaseException | None = None) -> None:
        """A run ended, with *error* if any."""
        try:
            self._tree.end(str(run_id), error)
        except Exception:
            complain("the span of a run could not end")
