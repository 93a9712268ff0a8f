"""For observing only: a callback for ``litellm.callbacks``."""
# ruff: noqa: ARG002 - LiteLLM passes all of these, by name

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from llmkit_litellm import reading
from llmkit_litellm.calls import call_of
from llmkit_litellm.journey import Reader, is_sending
from llmkit_litellm.targets import Book, sdk_target
from llmkit_plugins.call import Call, Target
from llmkit_plugins.engine.handle import Handle
from llmkit_plugins.errors import Refused
from llmkit_plugins.forks import new_lock
from llmkit_plugins.given import given_kit
from llmkit_plugins.kit import LLMKit

_OPERATIONS = {
    "completion": "chat",
    "acompletion": "chat",
    "text_completion": "text_completion",
    "atext_completion": "text_completion",
    "embedding": "embeddings",
    "aembedding": "embeddings",
    "aresponses": "responses",
}


class LLMKitLogger(CustomLogger):
    """Reports every request LiteLLM sends to the plugins of *kit*: ``litellm.callbacks = [LLMKitLogger(kit)]``.

    It only observes: a request that a plugin refuses is sent anyway, and each attempt of a Router is a separate call.
    An abandoned stream ends as cancelled when its lease expires, because LiteLLM does not report it. Calls through
    ``LLMKitRouter`` or ``install`` are left to those. Raises ``ConfigError`` for anything that is not a kit.
    """

    def __init__(self, kit: LLMKit) -> None:
        super().__init__()
        self.plugin_name = f"llmkit-{id(self):x}"  # without it LiteLLM treats two callbacks of one class as the same
        self._kit, self._reader, self._book = given_kit(kit), Reader(), Book(kit.targets)
        self._open: dict[int, tuple[Any, Handle]] = {}
        self._lock = new_lock()

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
        """A request is about to be sent. LiteLLM calls this and the methods below with the same *kwargs*."""
        if is_sending():
            return
        try:
            handle = self._kit.begin(_call(messages, kwargs), self._target(model, kwargs), self._reader)
        except Refused:
            return
        with self._lock:
            self._forget_abandoned()
            self._open[id(kwargs)] = kwargs, handle

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """The request was answered."""
        if (handle := self._take(kwargs)) is None:
            return
        attempt, first = handle.attempt, kwargs.get("completion_start_time")
        reading.learn(attempt, response_obj)
        attempt.reported_cost = kwargs.get("response_cost") or None  # LiteLLM says 0 if it does not know
        if handle.call.stream and first is not None and attempt.started is not None:
            handle.first_chunk()
            attempt.first_chunk = attempt.started + max(0.0, (first - kwargs["api_call_start_time"]).total_seconds())
        handle.finish(response_obj)

    def log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """The request failed."""
        if (handle := self._take(kwargs)) is not None:
            handle.fail(kwargs.get("exception") or RuntimeError("LiteLLM does not say why"))

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """The same for an async request."""
        self.log_success_event(kwargs, response_obj, start_time, end_time)

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """The same for an async request."""
        self.log_failure_event(kwargs, response_obj, start_time, end_time)

    def _target(self, model: str, kwargs: Mapping[str, Any]) -> Target:
        params = kwargs.get("litellm_params") or {}
        if (params.get("model_info") or {}).get("id"):
            return self._book.sent({**params, "model": model})
        return sdk_target(model, kwargs.get("custom_llm_provider"), params.get("api_base") or None)

    def _take(self, kwargs: Any) -> Handle | None:
        with self._lock:
            _, handle = self._open.pop(id(kwargs), (None, None))
        return handle

    def _forget_abandoned(self) -> None:
        for key, (_, handle) in list(self._open.items()):
            if handle in self._kit.leases:
                return  # those after it began later
            del self._open[key]


def _call(messages: Any, kwargs: Mapping[str, Any]) -> Call:
    params = kwargs.get("litellm_params") or {}
    call = call_of(
        {
            **(kwargs.get("optional_params") or {}),
            "model": kwargs.get("model"),
            "messages": messages,
            "stream": kwargs.get("stream"),
            "user": kwargs.get("user"),
            "metadata": params.get("metadata"),
        }
    )
    call.operation = _OPERATIONS.get(str(kwargs.get("call_type")), str(kwargs.get("call_type")))
    return call
