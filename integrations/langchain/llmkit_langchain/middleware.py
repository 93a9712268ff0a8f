"""A kit around the model calls of ``langchain``'s agents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from langchain_core.language_models import BaseChatModel

from llmkit_langchain.calls import Caller, caller_in, calling
from llmkit_langchain.chat_model import ChatLLMKit
from llmkit_langchain.targets import target_for
from llmkit_plugins import ConfigError, LLMKit
from llmkit_plugins.given import called, given_kit

try:
    from langchain.agents.middleware import AgentMiddleware, ModelCallResult, ModelRequest
except ImportError as error:
    what = "LLMKitMiddleware is for agents of the package langchain, which is not here: pip install 'langchain>=1.4'"
    raise ImportError(what) from error

_KNOWN = 32
"""How many models from elsewhere are remembered; an agent has a handful."""
_OF_THE_RUN = ("callbacks", "metadata", "tags", "verbose")
"""What LangChain reads from the model it calls."""
_NAMES = ("user", "user_id", "tenant")


class LLMKitMiddleware(AgentMiddleware[Any, Any, Any]):
    """Sends each model call of an agent through *kit*: ``create_agent(..., middleware=[LLMKitMiddleware(kit)])``.

    With *models*, by name, as for :class:`ChatLLMKit`, the calls go to those and the agent's own model is not used.
    Without, they go to the model chosen by the agent or by an earlier middleware. Put it last in the list, so that
    earlier middleware can change the request, fall back or retry around it. Tools, structured output and streams work
    as with a ``ChatLLMKit``. The user and tenant come from the run's metadata, or else from ``user`` (or ``user_id``)
    and ``tenant`` in the agent's runtime context. Raises ``ConfigError`` for anything that is not a kit or a chat
    model.
    """

    def __init__(self, kit: LLMKit, models: Mapping[str, BaseChatModel | str] | None = None) -> None:
        super().__init__()
        self._kit = given_kit(kit)
        self._model = None if models is None else ChatLLMKit(models, kit)
        self._known: dict[int, ChatLLMKit] = {}

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelCallResult[Any]]
    ) -> ModelCallResult[Any]:
        """The call, through the kit."""
        with calling(_caller_of(request)):
            return handler(request.override(model=self._model or self._through_kit(request.model)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelCallResult[Any]]]
    ) -> ModelCallResult[Any]:
        """The call, through the kit, async."""
        with calling(_caller_of(request)):
            return await handler(request.override(model=self._model or self._through_kit(request.model)))

    def _through_kit(self, model: BaseChatModel) -> ChatLLMKit:
        """*model* as the only one of a ``ChatLLMKit``, the same object each time: a new one would share nothing."""
        if isinstance(model, ChatLLMKit) and model.kit is self._kit:
            return model
        if not isinstance(model, BaseChatModel):
            what, right = f"{called(model)} is not a chat model", "a chat model, or models for the middleware"
            raise ConfigError(what, key="model", right=right)
        known = self._known.get(id(model))  # which keeps *model*, so that no other can have its id
        if known is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            told = cast("Mapping[str, Any]", model._get_ls_params())  # noqa: SLF001 - all a model says of itself
            name, own = target_for(self._kit, told).name, {key: getattr(model, key) for key in _OF_THE_RUN}
            known = self._known[id(model)] = ChatLLMKit({name: model}, self._kit, **own)
        return known


def _caller_of(request: ModelRequest[Any]) -> Caller:
    """The caller named by the agent's context, a mapping or any object."""
    context = getattr(request.runtime, "context", None)
    if not isinstance(context, Mapping):
        context = {name: value for name in _NAMES if (value := getattr(context, name, None)) is not None}
    return caller_in(context)
