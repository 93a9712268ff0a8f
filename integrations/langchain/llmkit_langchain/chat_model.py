"""A chat model over several chat models, through a kit."""

# ruff: noqa: SLF001 - what LangChain asks of a model is underscored

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from functools import cached_property
from hashlib import sha256
from inspect import signature
from typing import Any, Self, TypeVar, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, Field

from llmkit_langchain.backend import ChatBackend, note_shared, result_of
from llmkit_langchain.calls import Origin, call_of
from llmkit_langchain.errors import langchain_errors
from llmkit_langchain.models import (
    chat_models,
    common_output_version,
    common_profile,
    warn_of_callbacks,
    warn_of_retries,
)
from llmkit_langchain.origin import OriginChatModel
from llmkit_langchain.routes import DECISIVE, Route
from llmkit_langchain.runs import MARK, mark_of
from llmkit_langchain.structured import common_form
from llmkit_langchain.targets import target_named
from llmkit_plugins import Call, ConfigError, LLMKit
from llmkit_plugins.call import new_id
from llmkit_plugins.conventions import CREDENTIAL
from llmkit_plugins.given import given_kit

Tool = dict[str, Any] | type | Callable[..., Any] | BaseTool
Method = TypeVar("Method", bound=Callable[..., Any])


def _with_signature(method: Method) -> Method:
    """*method* with a cached signature: LangChain inspects it before each call, and creating it takes 8 µs."""
    method.__dict__["__signature__"] = signature(method)
    return method


class ChatLLMKit(OriginChatModel):
    """A chat model that sends each call through *kit* to one of *models*, by name, and fails over to the others.

    The names are target names: if the kit has a target of that name, it supplies the prices; otherwise one is created
    from what the model reports about itself. A model may be given as ``"openai:gpt-4o-mini"``, as for
    ``init_chat_model``. Each call is a single LangChain run, however many attempts it takes; the route taken is in
    ``response_metadata["llmkit"]``. A call's user and tenant are ``user`` (or ``user_id``) and ``tenant`` in its run's
    metadata. ``model=`` in a call requests a route by name or by model. Raises ``ConfigError`` for anything that is not
    a chat model or a kit, for a ``ChatLLMKit`` of the same kit, and for unknown settings. Warns about models that retry
    by themselves or have callbacks of their own, which are not called: set them on this model.
    """

    models: dict[str, BaseChatModel] = Field(repr=False, exclude=True)
    """The chat models by the name of their target."""
    kit: LLMKit = Field(repr=False, exclude=True)
    """The plugins that calls go through."""

    def __init__(self, models: Mapping[str, BaseChatModel | str], kit: LLMKit, **settings: Any) -> None:
        _check_known(settings, type(self))
        made, kit = chat_models(models), given_kit(kit)
        _check_once(made, kit)
        warn_of_retries(made, stacklevel=2)
        warn_of_callbacks(made, settings.get("callbacks"), stacklevel=2)
        settings.setdefault("output_version", common_output_version(list(made.values())))
        super().__init__(**{"models": made, "kit": kit, **settings})
        self._backend, self._identity  # noqa: B018 - what is wrong with a model shows now

    # cached properties, because every call reads them, and pydantic's private attributes take 1.4 µs to read

    @cached_property
    def _backend(self) -> ChatBackend:
        kit, models = self.kit, self.models
        routes = {name: Route.to(target_named(kit, name, _told(model)), model) for name, model in models.items()}
        return ChatBackend(routes, kit.clock, new_id())

    @cached_property
    def _settled(self) -> dict[str, Any]:
        """The settings shared by all models that determine whether their answers would differ each time."""
        first, *others = (route.said for route in self._backend.routes.values())
        agreed = {name: first[name] for name in DECISIVE if name in first}
        return {name: value for name, value in agreed.items() if all(other.get(name) == value for other in others)}

    @cached_property
    def _answers_severally(self) -> bool:
        """Whether any model is set to give several answers."""
        return any(route.said.get("n") not in (None, 1) for route in self._backend.routes.values())

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {name: {**model._identifying_params, "_type": model._llm_type} for name, model in self.models.items()}

    # -- what LangChain asks it to do -------------------------------------------------------------------------------

    @_with_signature
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call, backend = self._call(messages, stop, run_manager, kwargs)
        with langchain_errors:
            return result_of(self.kit.call(call, backend))

    @_with_signature
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call, backend = self._call(messages, stop, run_manager, kwargs)
        with langchain_errors:
            return result_of(await self.kit.acall(call, backend))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call, backend = self._call(messages, stop, run_manager, kwargs)
        with langchain_errors, closing(cast("Any", self.kit.stream(call, backend))) as chunks:
            for chunk in chunks:
                note_shared(call, chunk)
                if run_manager is not None:  # else LangChain tells the callbacks
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call, backend = self._call(messages, stop, run_manager, kwargs)
        with langchain_errors:
            async with aclosing(cast("Any", self.kit.astream(call, backend))) as chunks:
                async for chunk in chunks:
                    note_shared(call, chunk)
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _call(
        self, messages: list[BaseMessage], stop: list[str] | None, run: Any, kwargs: dict[str, Any]
    ) -> tuple[Call, ChatBackend]:
        backend, asked = self._backend, kwargs.get("model")
        params = {**self._settled, **kwargs, CREDENTIAL: backend.credential}
        if stop is not None:
            params["stop"] = stop
        model = None if asked in backend.routes else asked
        call = call_of(messages, params, Origin.of(run), model, "chat")
        if self._answers_severally:
            call.metadata = {**call.metadata, "share": False}
        return call, backend.narrowed(asked)

    @cached_property
    def _tells_tokens(self) -> bool:
        return all(getattr(model, "streaming", None) is True for model in self.models.values())

    def _should_stream(
        self,
        *,
        async_api: bool,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> bool:
        """Also if all models are set to stream whole answers and something listens for tokens; if nothing does, a
        provider that breaks off can still be replaced."""
        if self._tells_tokens and run_manager is not None and run_manager.handlers:
            kwargs["stream"] = True
        return super()._should_stream(async_api=async_api, run_manager=run_manager, **kwargs)

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        """Combine as the models do, if all do it the same way."""
        ways = {type(model)._combine_llm_outputs for model in self.models.values()}
        return self._first._combine_llm_outputs(llm_outputs) if len(ways) == 1 else {}

    # -- tools and structured output --------------------------------------------------------------------------------

    def bind_tools(
        self, tools: Sequence[Tool], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with *tools*, which each of its models gets in its own form; those that have none are left out.

        Raises ``NotImplementedError`` where none of them can call tools.
        """
        bound = {**kwargs, "tools": [_canonical(tool) for tool in tools]}
        if tool_choice is not None:
            bound["tool_choice"] = tool_choice
        routes = {}
        for name, route in self._backend.routes.items():
            try:
                routes[name] = route.binding(
                    lambda model: model.bind_tools(tools, tool_choice=tool_choice, **kwargs), bound
                )
            except NotImplementedError:
                continue
        if not routes:
            raise NotImplementedError(f"none of {', '.join(self.models)} can call tools")
        return self._over(routes).bind(**bound)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """This model with answers of *schema*: in the provider's own form where all models have the same, else by
        calling a tool."""
        form = common_form([route.model for route in self._backend.routes.values()], schema, kwargs)
        if form is None:
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        return form.around(self, include_raw=include_raw)

    def _over(self, routes: Mapping[str, Route]) -> Self:
        bound = self.model_copy()
        bound._backend = self._backend.over(routes)
        return bound

    # -- what it says of itself -------------------------------------------------------------------------------------

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [("models", [*self.models]), *super().__repr_args__()]

    @property
    def _llm_type(self) -> str:
        return "llmkit"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"models": self._identity}

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        # one model's parameters, as it knows which are secret; those of all models are only for the cache
        told = self._backend.narrowed(kwargs.get("model")).first.invocation_params(stop, kwargs)
        return {**told, **self._identifying_params, "_type": self._llm_type}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        return f"{super()._get_llm_string(stop, **kwargs)}---{self._fingerprint}"

    @cached_property
    def _fingerprint(self) -> str:
        """A digest of all that a cache distinguishes models by, addresses included; these may contain headers."""
        told = {name: model._get_llm_string() for name, model in self.models.items()}
        return sha256(repr(told).encode()).hexdigest()

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        told = self._backend.narrowed(kwargs.get("model")).first.ls_params(stop, kwargs)
        return cast("LangSmithParams", {**told, MARK: mark_of(self.kit)})

    def _resolve_model_profile(self) -> ModelProfile | None:
        return common_profile(list(self.models.values()))

    def get_token_ids(self, text: str) -> list[int]:
        """The tokens of *text* as the first model counts them."""
        return self._first.get_token_ids(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Tool] | None = None) -> int:
        """The tokens of *messages* as the first model counts them."""
        return self._first.get_num_tokens_from_messages(messages, tools)

    @property
    def _first(self) -> BaseChatModel:
        return next(iter(self.models.values()))

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        shared = (self.kit, self._backend, self.callbacks, self.cache, self.rate_limiter, *self.models.values())
        memo = {} if memo is None else memo
        memo.update((id(one), one) for one in shared)
        return super().__deepcopy__(memo)


def _check_known(settings: dict[str, Any], cls: type[BaseChatModel]) -> None:
    for name in settings.keys() - cls.model_fields.keys():
        raise ConfigError("there is no such setting", key=name, right=f"one of {', '.join(cls.model_fields)}")


def _check_once(models: Mapping[str, BaseChatModel], kit: LLMKit) -> None:
    """Reject a ``ChatLLMKit`` of the same kit: a call would count twice, and the inner might wait for the outer."""
    for name, model in models.items():
        if isinstance(model, ChatLLMKit) and model.kit is kit:
            what, right = "a ChatLLMKit of the same kit: it would count each call twice", "its models, in its place"
            raise ConfigError(what, key=f"models.{name}", right=right)


def _told(model: BaseChatModel) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", model._get_ls_params())


def _canonical(tool: Tool) -> dict[str, Any]:
    """*tool* in OpenAI's form, for caches, tracers and plugins; a provider's built-in tool stays as it is."""
    if isinstance(tool, dict) and tool.get("type") not in (None, "function"):
        return tool
    return convert_to_openai_tool(tool)
