"""A chat model that knows whose call it is making: LangChain tells ``_generate``, but not ``_stream``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.utils.uuid import uuid7

from llmkit_langchain.calls import Origin, Originating


class OriginChatModel(BaseChatModel):
    """Remembers where each call comes from while it is made: ``Origin.of`` finds it even if it is not passed."""

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Answer *input* in chunks."""
        config = _with_run_id(config)
        with closing(cast("Any", super().stream(input, config, stop=stop, **kwargs))) as chunks:
            with Originating(Origin.within(config, self.metadata)):
                first = next(chunks, None)  # _stream begins in here
            if first is not None:
                yield first
                yield from chunks

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Answer *input* in chunks."""
        config = _with_run_id(config)
        async with aclosing(cast("Any", super().astream(input, config, stop=stop, **kwargs))) as chunks:
            with Originating(Origin.within(config, self.metadata)):
                first = await anext(chunks, None)
            if first is not None:
                yield first
                async for chunk in chunks:
                    yield chunk

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with Originating(Origin.of(run_manager)):
            return super()._generate_with_cache(messages, stop, run_manager, **kwargs)

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with Originating(Origin.of(run_manager)):
            return await super()._agenerate_with_cache(messages, stop, run_manager, **kwargs)


def _with_run_id(config: RunnableConfig | None) -> RunnableConfig:
    """*config* with a run id set in advance, so that the call has the same id."""
    config = ensure_config(config)
    if config.get("run_id") is None:
        config["run_id"] = uuid7()
    return config
