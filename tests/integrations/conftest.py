"""The smallest backend over real HTTP: the ``openai`` client, each target at an address of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import openai
import pytest

from llmkit_plugins import Attempt, Backend, Call, Target, Usage


class OpenAIBackend(Backend):
    """Sends with the ``openai`` client to the address of each target in *urls*."""

    def __init__(self, urls: Mapping[str, str], *, include_usage: bool = True) -> None:
        self._include_usage = include_usage
        options = {name: {"base_url": url, "api_key": "any", "max_retries": 0} for name, url in urls.items()}
        # certificates take longer to load than a test
        self._clients = {
            name: openai.OpenAI(http_client=openai.DefaultHttpxClient(verify=False), **each)
            for name, each in options.items()
        }
        self._aclients = {
            name: openai.AsyncOpenAI(http_client=openai.DefaultAsyncHttpxClient(verify=False), **each)
            for name, each in options.items()
        }

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    async def aclose(self) -> None:
        for client in self._aclients.values():
            await client.close()

    def send(self, call: Call, attempt: Attempt | None) -> Any:
        assert attempt is not None
        answer = self._clients[attempt.target.name].chat.completions.create(**self._request(call, attempt.target))
        return _read(answer, attempt)

    async def asend(self, call: Call, attempt: Attempt | None) -> Any:
        assert attempt is not None
        client = self._aclients[attempt.target.name]
        return _read(await client.chat.completions.create(**self._request(call, attempt.target)), attempt)

    def stream(self, call: Call, attempt: Attempt | None) -> Iterator[Any]:
        assert attempt is not None
        client = self._clients[attempt.target.name]
        with client.chat.completions.create(**self._request(call, attempt.target)) as chunks:
            for chunk in chunks:
                yield _read(chunk, attempt)

    async def astream(self, call: Call, attempt: Attempt | None) -> AsyncIterator[Any]:
        assert attempt is not None
        client = self._aclients[attempt.target.name]
        async with await client.chat.completions.create(**self._request(call, attempt.target)) as chunks:
            async for chunk in chunks:
                yield _read(chunk, attempt)

    def says(self, chunk: Any) -> bool:
        return any(choice.delta.content or choice.finish_reason for choice in chunk.choices)

    def _request(self, call: Call, target: Target) -> dict[str, Any]:
        request = {"model": target.model, "messages": call.messages, "stream": call.stream, **call.params}
        if call.stream and self._include_usage:
            request["stream_options"] = {"include_usage": True}
        return {**request, **({"user": call.user} if call.user else {})}


def _read(said: Any, attempt: Attempt) -> Any:
    if said.usage is not None:
        attempt.usage = Usage(said.usage.prompt_tokens, said.usage.completion_tokens)
    if said.choices and said.choices[0].finish_reason:
        attempt.finish_reason = said.choices[0].finish_reason
    return said


@pytest.fixture
def openai_backend() -> Iterator[Any]:
    """Makes an :class:`OpenAIBackend` for targets at these URLs: ``openai_backend(a=provider.url)``."""
    made: list[OpenAIBackend] = []

    def make(*, include_usage: bool = True, **urls: str) -> OpenAIBackend:
        made.append(OpenAIBackend(urls, include_usage=include_usage))
        return made[-1]

    yield make
    for backend in made:
        backend.close()
