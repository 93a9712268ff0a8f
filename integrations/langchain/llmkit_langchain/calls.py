"""Whose call LangChain is making, and that call as the kit's ``Call``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

from llmkit_plugins import Call
from llmkit_plugins.call import new_id

_NOTHING: Mapping[str, Any] = MappingProxyType({})
Value = TypeVar("Value")


class Origin(NamedTuple):
    """Where a call comes from: its run in LangChain."""

    metadata: Mapping[str, Any] = _NOTHING
    """The run's ``config["metadata"]``, including what it inherits."""
    run_id: UUID | None = None
    """The run's id, which becomes the id of the call."""

    @classmethod
    def of(cls, run: Any) -> Origin:
        """The origin of a call under the run manager *run*; without one, of the call that LangChain is making here."""
        return _origin.get() or cls() if run is None else cls(run.metadata or {}, run.run_id)

    @classmethod
    def within(cls, config: RunnableConfig, own: Mapping[str, Any] | None) -> Origin:
        """The origin of the run that *config* starts on a model with metadata of its *own*."""
        inherited = getattr(config.get("callbacks"), "metadata", None)
        return cls({**(inherited or {}), **(config.get("metadata") or {}), **(own or {})}, config.get("run_id"))


_origin: ContextVar[Origin | None] = ContextVar("llmkit_langchain_origin", default=None)


class Originating:
    """Remembers *origin* for code inside, since LangChain does not tell a model's ``_stream`` whose call it is.

    Every call runs inside one, and a ``contextmanager`` takes twice as long.
    """

    __slots__ = ("_origin", "_token")

    def __init__(self, origin: Origin) -> None:
        self._origin = origin

    def __enter__(self) -> None:
        self._token = _origin.set(self._origin)

    def __exit__(self, *_: object) -> None:
        _origin.reset(self._token)


class Caller(NamedTuple):
    """On whose behalf calls are made."""

    user: str | None = None
    tenant: str | None = None


_NOBODY = Caller()
_caller: ContextVar[Caller] = ContextVar("llmkit_langchain_caller", default=_NOBODY)


@contextmanager
def holding(variable: ContextVar[Value], value: Value) -> Iterator[None]:
    """Set *variable* to *value* inside.

    A generator may be exited in another context than it was entered in (web servers run each step in its own thread):
    there is nothing to undo there.
    """
    token = variable.set(value)
    try:
        yield
    finally:
        with suppress(ValueError):
            variable.reset(token)


def calling(caller: Caller) -> AbstractContextManager[None]:
    """Make calls inside on behalf of *caller*, unless their metadata names somebody."""
    return holding(_caller, caller)


def caller_in(metadata: Mapping[str, Any]) -> Caller:
    """The caller that *metadata* names, else the one set by ``calling``."""
    known = _caller.get()
    user, tenant = metadata.get("user"), metadata.get("tenant")
    if user is None:
        user = metadata.get("user_id")
    return Caller(known.user if user is None else str(user), known.tenant if tenant is None else str(tenant))


def caller_here() -> Caller:
    """On whose behalf a call is made here: the caller in the metadata of the call under way, else of the running chain,
    else the context's."""
    origin = _origin.get()
    if origin is not None:
        return caller_in(origin.metadata)
    config = var_child_runnable_config.get() or {}
    return caller_in(config.get("metadata") or {})


def call_of(messages: Any, params: Mapping[str, Any], origin: Origin, model: str | None, operation: str) -> Call:
    """The call that LangChain makes with *messages*, with the user and tenant from its run's metadata."""
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
