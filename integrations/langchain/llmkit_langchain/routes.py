"""One chat model as a place to send to: below its run level, so that a call stays one run, however many attempts."""

# ruff: noqa: SLF001 - below the run level there are only LangChain's underscored methods

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import Runnable, RunnableBinding

from llmkit_plugins import Attempt, Call, Target
from llmkit_plugins.conventions import CREDENTIAL

_TRACING_ONLY = frozenset({"ls_structured_output_format", "structured_output_format"})
"""Bound parameters that only tracers read: a model below its run level would send them."""

_WITH_HEADERS = frozenset({"langchain_anthropic", "langchain_groq", "langchain_openai"})
"""The packages of models (or their base classes) whose clients accept ``extra_headers``."""

DECISIVE = ("temperature", "seed")
"""Settings of a model that determine whether its answers would differ each time."""

_ABSENT = object()
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A chat model, its target, and its own form of what was bound to all models."""

    target: Target
    model: BaseChatModel
    """The bare model: its limiter is consulted before sending, the global cache above it."""
    limiter: BaseRateLimiter | None = None
    """Its own rate limiter: time spent waiting for it is not the provider's."""
    bound: Mapping[str, Any] = field(default_factory=dict)
    """What was bound, in the common form ..."""
    native: Mapping[str, Any] = field(default_factory=dict)
    """... and the same in this model's own."""
    plain: bool = False
    """Whether LangChain's path to a whole answer adds nothing to the model's own: finding out takes it 30 µs."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """The model's invocation parameters if a call adds none: our copy never changes, and computing them takes 5 µs."""
    ls_said: Mapping[str, Any] = field(default_factory=dict)
    """And its ``ls_params``, 8 µs."""

    @classmethod
    def to(cls, target: Target, model: BaseChatModel) -> Route:
        """A route to *model*."""
        bare: dict[str, Any] = {"rate_limiter": None}
        if model.cache is None:  # the global cache, which was checked before any route
            bare["cache"] = False
        own = model.model_copy(update=bare)
        said, ls_said = own._get_invocation_params(), cast("Mapping[str, Any]", own._get_ls_params())
        return cls(target, own, model.rate_limiter, plain=_is_plain(own), said=said, ls_said=ls_said)

    def binding(self, bind: Callable[[BaseChatModel], Runnable[Any, Any]], bound: Mapping[str, Any]) -> Route:
        """This route with *bound* in the form that *bind* gives it for this model."""
        return replace(self, bound=bound, native=kwargs_of(bind(self.model)))

    def invocation_params(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters of a call as reported to tracers. Not to be modified."""
        if stop is None and not kwargs:
            return self.said
        return self.model._get_invocation_params(stop=stop, **self._less_name(kwargs))

    def ls_params(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is reported to tracers about the model. Not to be modified."""
        if stop is None and not kwargs:
            return self.ls_said
        return cast("Mapping[str, Any]", self.model._get_ls_params(stop=stop, **self._less_name(kwargs)))

    def generate(self, call: Call, attempt: Attempt) -> ChatResult:
        """The whole answer."""
        kwargs = self._kwargs(call, attempt)
        if self.plain and not self.model._should_stream(async_api=False, **kwargs):
            return self.model._generate(call.messages, **{"stop": None, **kwargs})
        return self.model._generate_with_cache(call.messages, **kwargs)

    async def agenerate(self, call: Call, attempt: Attempt) -> ChatResult:
        """The whole answer, async."""
        kwargs = self._kwargs(call, attempt)
        if self.plain and not self.model._should_stream(async_api=True, **kwargs):
            return await self.model._agenerate(call.messages, **{"stop": None, **kwargs})
        return await self.model._agenerate_with_cache(call.messages, **kwargs)

    def stream(self, call: Call, attempt: Attempt) -> Iterator[ChatGenerationChunk]:
        """The answer in chunks; just one if the model cannot stream."""
        kwargs = self._kwargs(call, attempt)
        if self.model._should_stream(async_api=False, **{**kwargs, "stream": True}):
            return self.model._stream(call.messages, **kwargs)
        return map(_as_chunk, self.generate(call, attempt).generations[:1])

    async def astream(self, call: Call, attempt: Attempt) -> AsyncIterator[ChatGenerationChunk]:
        """The answer in chunks, async."""
        kwargs = self._kwargs(call, attempt)
        if self.model._should_stream(async_api=True, **{**kwargs, "stream": True}):
            return self.model._astream(call.messages, **kwargs)
        return _chunked((await self.agenerate(call, attempt)).generations[:1])

    def _less_name(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """*kwargs* without this route's own name, which is not a model to the provider."""
        if kwargs.get("model") != self.target.name:
            return kwargs
        return {name: value for name, value in kwargs.items() if name != "model"}

    def _kwargs(self, call: Call, attempt: Attempt) -> dict[str, Any]:
        """The parameters of *call* in the form this model accepts."""
        params = call.params
        bound, native = (self.bound, self.native) if "tools" in params else (_NOTHING, _NOTHING)
        kwargs = {name: value for name, value in params.items() if bound.get(name, _ABSENT) != value}
        kwargs.pop(CREDENTIAL, None)
        for name in DECISIVE:
            if name in kwargs and kwargs[name] == self.said.get(name, _ABSENT):
                del kwargs[name]  # the model already has that value
        if kwargs.get("model") == self.target.name:
            del kwargs["model"]
        if attempt.timeout_seconds is not None and (setting := _timeout_setting(self.model)) is not None:
            own = kwargs.get("timeout", getattr(self.model, setting))
            kwargs["timeout"] = _shorter(own, attempt.timeout_seconds)
        kwargs = {**native, **kwargs}
        if attempt.request_headers is not None and _takes_headers(self.model):
            kwargs["extra_headers"] = {**attempt.request_headers, **(kwargs.get("extra_headers") or {})}
        return kwargs


def kwargs_of(runnable: Runnable[Any, Any]) -> dict[str, Any]:
    """What *runnable* binds to a model, minus what only tracers read."""
    kwargs: dict[str, Any] = {}
    while isinstance(runnable, RunnableBinding):
        kwargs, runnable = {**runnable.kwargs, **kwargs}, runnable.bound
    return {name: value for name, value in kwargs.items() if name not in _TRACING_ONLY}


def _is_plain(model: BaseChatModel) -> bool:
    cls, base = type(model), BaseChatModel
    own = cls._generate_with_cache, cls._agenerate_with_cache
    return (
        own == (base._generate_with_cache, base._agenerate_with_cache)
        and model.cache is False
        and model.output_version != "v1"
    )


def _timeout_setting(model: BaseChatModel) -> str | None:
    """The setting for how long *model* waits, if it accepts ``timeout``."""
    fields = type(model).model_fields
    return next((name for name, field in fields.items() if "timeout" in (name, field.alias)), None)


def _shorter(own: Any, seconds: float) -> float:
    """*seconds*, or the model's *own* timeout if shorter; some clients take 0 or less as none."""
    return own if isinstance(own, int | float) and 0 < own < seconds else seconds


def _takes_headers(model: BaseChatModel) -> bool:
    """Whether it passes ``extra_headers`` to its client, and has no cache that would then take every call for new."""
    return not model.cache and any(cls.__module__.partition(".")[0] in _WITH_HEADERS for cls in type(model).__mro__)


async def _chunked(generations: Sequence[ChatGeneration]) -> AsyncIterator[ChatGenerationChunk]:
    for generation in generations:
        yield _as_chunk(generation)


def _as_chunk(generation: ChatGeneration) -> ChatGenerationChunk:
    message = generation.message
    if not isinstance(message, AIMessageChunk):
        message = AIMessageChunk(**message.model_dump(exclude={"type"}), chunk_position="last")
    return ChatGenerationChunk(message=message, generation_info=generation.generation_info)
