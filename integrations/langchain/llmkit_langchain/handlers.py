"""Callback handlers that report to a kit the calls that LangChain's models make by themselves."""

# ruff: noqa: ARG002 - LangChain passes more than a kit needs

from __future__ import annotations

import asyncio
import logging
from typing import Any, Self
from uuid import UUID
from weakref import WeakSet

from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from llmkit_langchain.backend import LangChainBackend
from llmkit_langchain.calls import Origin, call_of
from llmkit_langchain.errors import langchain_errors
from llmkit_langchain.reading import learn
from llmkit_langchain.run_tree import RunTreeHandler
from llmkit_langchain.runs import MARK, mark_of, runs_of
from llmkit_langchain.targets import MOST_TARGETS, target_for
from llmkit_plugins import Call, Handle, LLMKit, Target
from llmkit_plugins.given import given_kit

log = logging.getLogger("llmkit")

_BACKEND = LangChainBackend()
_EVENTS = ("_achat_model_start_fallback", "on_chat_model_start", "on_llm_start")
_told: WeakSet[LLMKit] = WeakSet()
_warned: WeakSet[LLMKit] = WeakSet()


class _Handler(RunTreeHandler):
    """What both handlers share: everything but the start of a call."""

    raise_error = True
    """A plugin's refusal must stop the call."""
    run_inline = True
    """In the caller's own task: LangChain runs it before handlers that only watch, and would otherwise use a thread."""
    ignore_retry = ignore_custom_event = True
    ignore_llm = ignore_chat_model = False

    def __init__(self, kit: LLMKit) -> None:
        super().__init__(given_kit(kit))
        self.kit, self._mark = kit, mark_of(kit)
        self._runs = runs_of(kit)
        self._targets: dict[tuple[Any, Any], Target] = {}
        _say_what_it_cannot(kit)

    def __deepcopy__(self, _: object) -> Self:
        """Itself: a copied config or model has the same calls under way."""
        return self

    def _call(self, run_id: UUID, messages: Any, told: dict[str, Any], operation: str) -> tuple[Call, Target] | None:
        """The call that a run makes, and its target; None if it is already counted."""
        if self._tree:
            self._join_tree(run_id, told.get("parent_run_id"))
        metadata = told.get("metadata") or {}
        if metadata.get(MARK) == self._mark or not self._runs.claim(run_id):
            return None
        provider, model = metadata.get("ls_provider"), metadata.get("ls_model_name")
        target = self._targets.get((provider, model))
        if target is None:
            if len(self._targets) >= MOST_TARGETS:
                self._targets.clear()
            target = self._targets[provider, model] = target_for(self.kit, metadata)
        params = told.get("invocation_params") or {}
        return call_of(messages, params, Origin(metadata, run_id), model, operation), target

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **_: Any) -> None:
        """The first token that says something makes it a stream; LangChain reports that in no other way."""
        handle = self._runs.get(run_id)
        if handle is None:
            return
        handle.chunk(token if chunk is None else chunk)
        if handle.call.stream:
            return
        if token if chunk is None else _BACKEND.says(chunk):
            handle.call.stream = True
            handle.first_chunk()

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """The call succeeded."""
        if self._tree:
            self._leave_tree(run_id)
        if handle := self._runs.close(run_id):
            _learn(handle, response)
            handle.finish(response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **told: Any) -> None:
        """The call failed; a cancellation, or an abandoned stream, says nothing about the provider."""
        if self._tree:
            self._leave_tree(run_id)
        if handle := self._runs.close(run_id):
            _learn(handle, told.get("response"))
            handle.fail(error)


class LLMKitCallbackHandler(_Handler):
    """Runs the plugins of *kit* around every call of the models it is attached to: to observe, limit and guard.

    Attach it to a chain, an agent, a graph or a model (``config={"callbacks": [handler]}``), for sync and async calls.
    It never waits: if a plugin would, the call is refused. A refusal is raised from the call, also as a ``ModelError``.
    It cannot route or share, because LangChain sends the request itself; use ``ChatLLMKit`` for that. Raises
    ``ConfigError`` for anything that is not a kit.
    """

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **told: Any
    ) -> None:
        """A chat model is about to be called."""
        self._begin(run_id, messages[0], told, "chat")

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **told: Any) -> None:
        """A model that completes text is about to be called."""
        self._begin(run_id, prompts[0], told, "text_completion")

    def _begin(self, run_id: UUID, messages: Any, told: dict[str, Any], operation: str) -> None:
        if made := self._call(run_id, messages, told, operation):
            try:
                with langchain_errors:
                    self._runs.open(run_id, self.kit.begin(*made, _BACKEND))
            except BaseException:
                self._runs.close(run_id)
                raise


class AsyncLLMKitCallbackHandler(_Handler):
    """Like ``LLMKitCallbackHandler``, for async calls (``ainvoke``, ``astream``, ``abatch``); it awaits where a plugin
    waits.

    LangChain does not let an async handler stop a sync call. If one occurs, a warning is logged once; use
    ``LLMKitCallbackHandler`` there.
    """

    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **told: Any
    ) -> None:
        """A chat model is about to be called."""
        await self._begin(run_id, messages[0], told, "chat")

    async def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **told: Any) -> None:
        """A model that completes text is about to be called."""
        await self._begin(run_id, prompts[0], told, "text_completion")

    async def _begin(self, run_id: UUID, messages: Any, told: dict[str, Any], operation: str) -> None:
        _warn_in_sync_call(self.kit)
        if made := self._call(run_id, messages, told, operation):
            try:
                with langchain_errors:
                    self._runs.open(run_id, await self.kit.abegin(*made, _BACKEND))
            except BaseException:
                self._runs.close(run_id)
                raise


def _learn(handle: Handle, response: LLMResult | None) -> None:
    if response is not None and response.generations and response.generations[0]:
        learn(handle.attempt, response.generations[0][0], response.llm_output)


def _say_what_it_cannot(kit: LLMKit) -> None:
    """Log what a handler cannot do, once per kit; as a warning if one of its plugins would route."""
    if kit in _told:
        return
    _told.add(kit)
    routing = [name for name, plugin in kit.plugins.items() if hasattr(plugin, "llmkit_route")]
    log.log(
        logging.WARNING if routing else logging.INFO,
        "LangChain sends the calls that a callback handler sees by itself: plugins observe, limit and refuse them, but "
        "cannot route them elsewhere (%s) or share their answers; ChatLLMKit does both",
        ", ".join(routing) or "none here would",
    )


def _warn_in_sync_call(kit: LLMKit) -> None:
    """In a sync call LangChain runs an async handler's event in a separate task, and swallows what it raises."""
    task = asyncio.current_task()
    if task is None or getattr(task.get_coro(), "__name__", "") not in _EVENTS or kit in _warned:
        return
    _warned.add(kit)
    log.warning(
        "AsyncLLMKitCallbackHandler is attached to a sync call, which LangChain does not let it refuse: "
        "use LLMKitCallbackHandler there"
    )
