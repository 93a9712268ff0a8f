"""A multiplexer on a manual clock, and a provider that says what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from llmkit_plugins import Call, LLMKit, Target
from llmkit_plugins.plugins.multiplexer import MultiplexerPlugin, StreamingMultiplexer
from llmkit_plugins.testing import ManualClock, Recorder, ScriptedBackend

ASKED = [{"role": "user", "content": "hi"}]


class Provider:
    """Says *chunks*, one a second, then raises *error* where there is one; counts who began, ended and was cut off."""

    def __init__(self, *chunks: Any, error: Exception | None = None, clock: ManualClock | None = None) -> None:
        self.chunks, self.error, self.clock = chunks, error, clock
        self.began = self.ended = self.cut_off = 0

    async def stream(self) -> AsyncIterator[Any]:
        self.began += 1
        try:
            for chunk in self.chunks:
                await asyncio.sleep(1.0)
                yield chunk
            if self.error is not None:
                raise self.error
        except (asyncio.CancelledError, GeneratorExit):
            self.cut_off += 1
            raise
        finally:
            self.ended += 1

    async def answer(self) -> Any:
        return [chunk async for chunk in self.stream()][-1]

    def stream_sync(self) -> Iterator[Any]:
        self.began += 1
        try:
            yield from self.chunks
            if self.error is not None:
                raise self.error
        except GeneratorExit:
            self.cut_off += 1
            raise
        finally:
            self.ended += 1

    def answer_sync(self) -> Any:
        return list(self.stream_sync())[-1]


class Stage:
    """One multiplexer and its clock."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.multiplexer = StreamingMultiplexer(clock=self.clock, **settings)

    def arun(self, scenario: Callable[[], Any]) -> Any:
        """Run *scenario* on a loop of this clock; it must leave nothing behind."""

        async def watched() -> Any:
            try:
                return await scenario()
            finally:
                for _ in range(8):
                    await asyncio.sleep(0)
                assert len(asyncio.all_tasks()) == 1
                assert self.multiplexer.stats().active_requests == 0
                assert self.multiplexer.stats().total_subscribers == 0

        return self.clock.run(watched())

    async def read(self, provider: Provider, call: Call | None = None) -> list[Any]:
        """All chunks that a subscriber gets."""
        call = Call(ASKED) if call is None else call
        return [chunk async for chunk in self.multiplexer.subscribe(call, provider.stream)]


class Scene:
    """A kit with the plugin, between two recorders, before a backend that plays a script."""

    def __init__(self, script: Any, **settings: Any) -> None:
        self.clock = ManualClock()
        self.plugin, self.heard = MultiplexerPlugin(**settings), Recorder()
        target = Target("a", "p", "m", input_price=1e6, output_price=1e6)
        self.kit = LLMKit([self.heard, self.plugin], [target], clock=self.clock, on_plugin_error="raise")
        self.backend = ScriptedBackend(default=script, sleep=self.clock.sleep)


@pytest.fixture
def provider() -> type[Provider]:
    return Provider


@pytest.fixture
def stage() -> type[Stage]:
    return Stage


@pytest.fixture
def scene() -> Iterator[Callable[..., Scene]]:
    """Makes scenes, and sees to it that each has nothing open when the test is over."""
    made: list[Scene] = []

    def make(script: Any = ("a", "b", "c"), **settings: Any) -> Scene:
        made.append(Scene(script, **settings))
        return made[-1]

    yield make
    for each in made:
        assert not each.heard.open
        assert not each.kit.flights
        assert each.backend.opened == each.backend.closed
