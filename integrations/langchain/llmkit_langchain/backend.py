"""How a kit sends through chat models, and reads what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from copy import deepcopy
from types import NoneType
from typing import Any, TypeVar

from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import BaseModel

from llmkit_langchain.errors import model_error_kind
from llmkit_langchain.reading import finish_reason_of, learn
from llmkit_langchain.routes import Route
from llmkit_plugins import Attempt, Backend, Call, Response
from llmkit_plugins.clock import Clock
from llmkit_plugins.conventions import ROUTE_TAKEN
from llmkit_plugins.engine.streams import aclose, close
from llmkit_plugins.errors import EmptyAnswer, ErrorKind

_FRAME = frozenset({"type", "index", "id"})
_ATOMS = (str, int, float, NoneType)
Generated = TypeVar("Generated", bound=ChatGeneration)
Model = TypeVar("Model", bound=BaseModel)


class LangChainBackend(Backend):
    """Reads LangChain's errors and chunks. It is sufficient where LangChain itself sends the request."""

    def kind(self, error: BaseException) -> ErrorKind | None:
        """The kind by LangChain's own classes, else by the provider's client."""
        return model_error_kind(error)

    def says(self, chunk: Any) -> bool:
        """Text, a tool call, reasoning, or the end. OpenAI's first chunk only names the role."""
        message = getattr(chunk, "message", None)
        if message is None:
            return bool(chunk.text)
        content = message.content
        return bool(
            (content if isinstance(content, str) else any(map(_block_says, content)))
            or getattr(message, "tool_call_chunks", None)
            or any(message.additional_kwargs.values())
            or finish_reason_of(chunk.generation_info or {})
            or finish_reason_of(message.response_metadata)
        )

    def copy(self, chunk: Any) -> Any:
        """A copy, because LangChain writes ids and metadata onto the messages it passes on."""
        if isinstance(chunk, ChatResult):
            generations: list[Any] = [_own(generation) for generation in chunk.generations]
            return ChatResult(generations=generations, llm_output=chunk.llm_output)
        return _own(chunk)


class ChatBackend(LangChainBackend):
    """Sends through the chat model of each target, below the level of LangChain runs.

    *clock* is the kit's; *credential* is a fingerprint of how the models are set up, including keys and clients.
    """

    def __init__(self, routes: Mapping[str, Route], clock: Clock, credential: str) -> None:
        self.routes, self.clock, self.credential = routes, clock, credential
        self.targets = tuple(route.target for route in routes.values())
        self.first = next(iter(routes.values()))

    def over(self, routes: Mapping[str, Route]) -> ChatBackend:
        """The same backend over other *routes* to the same models."""
        return ChatBackend(routes, self.clock, self.credential)

    def narrowed(self, model: str | None) -> ChatBackend:
        """The same backend with the routes *model* selects: the one of that name, those of that model, else all."""
        if model is None:
            return self
        meant = {name: route for name, route in self.routes.items() if name == model}
        meant = meant or {name: route for name, route in self.routes.items() if route.target.model == model}
        return self.over(meant) if meant else self

    def send(self, call: Call, attempt: Attempt | None) -> ChatResult:
        """The whole answer."""
        route, attempt = self._admit(attempt)
        return _learned(attempt, route.generate(call, attempt))

    async def asend(self, call: Call, attempt: Attempt | None) -> ChatResult:
        """The whole answer, async."""
        route, attempt = await self._aadmit(attempt)
        return _learned(attempt, await route.agenerate(call, attempt))

    def stream(self, call: Call, attempt: Attempt | None) -> Iterator[ChatGenerationChunk]:
        """The answer in chunks."""
        route, attempt = self._admit(attempt)
        source, first = route.stream(call, attempt), True
        try:
            for chunk in source:
                first = _read(attempt, chunk, first=first)
                yield chunk
        finally:
            close(source)

    async def astream(self, call: Call, attempt: Attempt | None) -> AsyncIterator[ChatGenerationChunk]:
        """The answer in chunks, async."""
        route, attempt = await self._aadmit(attempt)
        source, first = await route.astream(call, attempt), True
        try:
            async for chunk in source:
                first = _read(attempt, chunk, first=first)
                yield chunk
        finally:
            await aclose(source)

    def _admit(self, attempt: Attempt | None) -> tuple[Route, Attempt]:
        """The route of *attempt*, once the model's own limiter admits it: that wait is not the provider's time."""
        route, attempt = self._route(attempt)
        if route.limiter is not None:
            route.limiter.acquire(blocking=True)
            attempt.started = self.clock()
        return route, attempt

    async def _aadmit(self, attempt: Attempt | None) -> tuple[Route, Attempt]:
        route, attempt = self._route(attempt)
        if route.limiter is not None:
            await route.limiter.aacquire(blocking=True)
            attempt.started = self.clock()
        return route, attempt

    def _route(self, attempt: Attempt | None) -> tuple[Route, Attempt]:
        if attempt is None:
            raise TypeError("a backend that does not delegate is sent attempts")
        return self.routes[attempt.target.name], attempt


def note_shared(call: Call, chunk: ChatGenerationChunk) -> None:
    """Note on *chunk*, if it names the route, that the answer was produced for another call than *call*, if so."""
    if call.share is not None and not call.attempts:
        _mark_shared(chunk.message)


def result_of(response: Response) -> ChatResult:
    """The result in *response*, marked if it was produced for another call."""
    result: ChatResult = response.raw
    if response.shared is not None:
        for generation in result.generations:
            _mark_shared(generation.message)
    return result


def _read(attempt: Attempt, chunk: ChatGenerationChunk, *, first: bool) -> bool:
    """Learn from the next chunk; the *first* one names the route. Returns False: the next is not the first."""
    learn(attempt, chunk)
    if first:
        _tell_route(attempt, chunk.message)
    return False


def _learned(attempt: Attempt, result: ChatResult) -> ChatResult:
    if not result.generations:
        raise EmptyAnswer("there is nothing in the answer")
    learn(attempt, result.generations[0], result.llm_output)
    for generation in result.generations:
        _tell_route(attempt, generation.message)
    return result


def _tell_route(attempt: Attempt, message: BaseMessage) -> None:
    told = {"target": attempt.target.name, "attempts": attempt.number, "shared": False}
    message.response_metadata = {**message.response_metadata, ROUTE_TAKEN: told}


def _mark_shared(message: BaseMessage) -> None:
    if (told := message.response_metadata.get(ROUTE_TAKEN)) is not None:
        message.response_metadata = {**message.response_metadata, ROUTE_TAKEN: {**told, "shared": True}}


def _block_says(block: Any) -> bool:
    """Whether a content block has more than its frame."""
    return bool(block) if isinstance(block, str) else any(value for key, value in block.items() if key not in _FRAME)


def _own(generation: Generated) -> Generated:
    """A separate copy; a plain text chunk has little to copy."""
    message = generation.message
    if isinstance(message, AIMessageChunk) and _is_plain(message):
        fresh: dict[str, Any] = {
            "response_metadata": dict(message.response_metadata),
            "additional_kwargs": {},
            "tool_calls": [],
            "invalid_tool_calls": [],
            "tool_call_chunks": [],
        }
    else:
        fresh = {name: _fresh(value) for name, value in message.__dict__.items()}
    return _replaced(generation, message=_replaced(message, **fresh))


def _replaced(model: Model, **fields: Any) -> Model:
    """A copy of *model* with *fields* replaced: like ``model_copy``, which takes a third longer."""
    twin = model.__copy__()
    twin.__dict__.update(fields)
    return twin


def _fresh(value: Any) -> Any:
    """A deep copy of *value*: like ``deepcopy``, in a fifth of the time for JSON types."""
    if isinstance(value, _ATOMS):
        return value
    if type(value) is dict:
        return {key: _fresh(item) for key, item in value.items()}
    return [_fresh(item) for item in value] if type(value) is list else deepcopy(value)


def _is_plain(message: AIMessageChunk) -> bool:
    told = message.tool_call_chunks or message.additional_kwargs or message.usage_metadata
    return isinstance(message.content, str) and not told
