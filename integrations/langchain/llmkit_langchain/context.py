"""``with llmkit_context(kit, user="u1"):`` around code that calls models, without passing a config down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook

from llmkit_langchain.calls import Caller, calling, holding
from llmkit_langchain.handlers import LLMKitCallbackHandler
from llmkit_plugins import LLMKit

_attached: ContextVar[BaseCallbackHandler | None] = ContextVar("llmkit_langchain_handler", default=None)
register_configure_hook(_attached, inheritable=True)


@contextmanager
def llmkit_context(kit: LLMKit, *, user: str | None = None, tenant: str | None = None) -> Iterator[None]:
    """Attach *kit* to every model call inside the block, on behalf of *user* and *tenant* unless a call's metadata
    names others.

    It is inherited by tasks and by the threads of LangChain's own executors, but not by a plain ``threading.Thread``.
    An inner context replaces an outer one. Like ``LLMKitCallbackHandler``, it never waits, and raises ``ConfigError``
    for anything that is not a kit.
    """
    with holding(_attached, LLMKitCallbackHandler(kit)), calling(Caller(user, tenant)):
        yield
