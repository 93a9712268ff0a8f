"""LangChain's words as the kit's: who calls and with what, and what an answer tells of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import Generation
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

from llmkit_langchain.complaints import complain
from llmkit_plugins import Attempt, Call, Usage
from llmkit_plugins.call import new_id

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_FINISH_REASONS = ("finish_reason", "stop_reason", "stopReason", "done_reason")
Value = TypeVar("Value")


class Origin(NamedTuple):
    """Where a call comes from: its run in LangChain."""

    metadata: Mapping[str, Any] = _NOTHING
    """The run's ``config["metadata"]``, what it inherits included."""
    run_id: UUID | None = None
    """The run's id, which becomes the id of the call."""

    @classmethod
    def of(cls, run: Any) -> Origin:
        """That of a call under the run manager *run*; without one, of the call that LangChain is making here."""
        return _origin.get() or cls() if run is None else cls(run.metadata or {}, run.run_id)

    @classmethod
    def within(cls, config: RunnableConfig, own: Mapping[str, Any] | None) -> Origin:
        """That of the run which *config* makes of a model with metadata of its *own*."""
        inherited = getattr(config.get("callbacks"), "metadata", None)
        return cls({**(inherited or {}), **(config.get("metadata") or {}), **(own or {})}, config.get("run_id"))


class Caller(NamedTuple):
    """On whose behalf calls are made."""

    user: str | None = None
    tenant: str | None = None


_NOBODY = Caller()
_caller: ContextVar[Caller] = ContextVar("llmkit_langchain_caller", default=_NOBODY)


@contextmanager
def holding(variable: ContextVar[Value], value: Value) -> Iterator[None]:
    """Have *variable* be *value* inside.

    A generator may be left in another context than it was entered in (web servers run each step of one in a thread of
    its own): there is nothing to undo there.
    """
    token = variable.set(value)
    try:
        yield
    finally:
        with suppress(ValueError):
            variable.reset(token)


def calling(caller: Caller) -> AbstractContextManager[None]:
    """Make calls inside on behalf of *caller*, where their metadata names nobody."""
    return holding(_caller, caller)


def caller_in(metadata: Mapping[str, Any]) -> Caller:
    """Whom *metadata* names; where nobody, on whose behalf calls are made here."""
    known = _caller.get()
    user, tenant = metadata.get("user"), metadata.get("tenant")
    if user is None:
        user = metadata.get("user_id")
    return Caller(known.user if user is None else str(user), known.tenant if tenant is None else str(tenant))


_origin: ContextVar[Origin | None] = ContextVar("llmkit_langchain_origin", default=None)


def caller_here() -> Caller:
    """On whose behalf a call is made here: as the metadata says of the call under way, or else of the chain that is
    running; where they name nobody, the context."""
    origin = _origin.get()
    if origin is not None:
        return caller_in(origin.metadata)
    config = var_child_runnable_config.get() or {}
    return caller_in(config.get("metadata") or {})


class Originating:
    """Remembers *origin* for what runs inside, since LangChain does not tell a model's ``_stream`` whose call it is.

    Every call is inside one, and a ``contextmanager`` takes twice as long.
    """

    __slots__ = ("_origin", "_token")

    def __init__(self, origin: Origin) -> None:
        self._origin = origin

    def __enter__(self) -> None:
        self._token = _origin.set(self._origin)

    def __exit__(self, *_: object) -> None:
        _origin.reset(self._token)


def call_of(messages: Any, params: Mapping[str, Any], origin: Origin, model: str | None, operation: str) -> Call:
    """The call that LangChain makes with *messages*: the user and the tenant are those of its run's metadata."""
    metadata, run_id = origin
    user, tenant = caller_in(metadata)
    return Call(
        messages=messages,
        model=model,
        operation=operation,
        params=params,
        user=user,
        tenant=tenant,
        metadata=metadata,
        id=new_id() if run_id is None else str(run_id),
    )


def learn(attempt: Attempt, generation: Generation, llm_output: Mapping[str, Any] | None = None) -> None:
    """Write onto *attempt* what *generation*, a whole answer or the next chunk of one, tells of it: as much as can be
    read, since the answer is good all the same."""
    message = getattr(generation, "message", None)
    try:
        if metadata := getattr(message, "usage_metadata", None):
            _learn_usage(attempt, metadata)
        elif message is None:
            _learn_tokens(attempt, (llm_output or {}).get("token_usage"))
        for told in (getattr(message, "response_metadata", None), generation.generation_info, llm_output):
            if told:
                _learn_end(attempt, told)
    except (AttributeError, TypeError, ValueError):
        complain("a model tells of its answer in a form that cannot be read: plugins do not hear of it")


def finish_reason_of(told: Mapping[str, Any]) -> str | None:
    """Why the provider stopped, by whichever name it says so."""
    for name in _FINISH_REASONS:
        reason: str | None = told.get(name)
        if reason:
            return reason
    return None


def _learn_usage(attempt: Attempt, metadata: UsageMetadata) -> None:
    if metadata.get("total_cost") == 0:  # how LangChain marks what its cache answered: nobody was asked, nothing is due
        attempt.started, attempt.usage = None, Usage()
        return
    usage = attempt.usage or Usage()  # the chunks of a stream each tell a part
    usage.input_tokens += metadata.get("input_tokens") or 0
    usage.output_tokens += metadata.get("output_tokens") or 0
    usage.cached_tokens += (metadata.get("input_token_details") or {}).get("cache_read") or 0
    usage.reasoning_tokens += (metadata.get("output_token_details") or {}).get("reasoning") or 0
    attempt.usage = usage


def _learn_tokens(attempt: Attempt, tokens: Any) -> None:
    """What models that are not chat models tell, in OpenAI's words."""
    if isinstance(tokens, Mapping):
        attempt.usage = Usage(tokens.get("prompt_tokens") or 0, tokens.get("completion_tokens") or 0)


def _learn_end(attempt: Attempt, told: Mapping[str, Any]) -> None:
    attempt.finish_reason = finish_reason_of(told) or attempt.finish_reason
    attempt.model = told.get("model_name") or told.get("model") or attempt.model
    if isinstance(headers := told.get("headers"), Mapping):
        attempt.headers = {str(name).lower(): str(value) for name, value in headers.items()}
