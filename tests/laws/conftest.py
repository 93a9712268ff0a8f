"""A scene: a kit on a manual clock with a recorder at each end of the plugins, before a backend that plays a script."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest

from llmkit_plugins import Call, LLMKit, Share, Target, hookimpl
from llmkit_plugins.engine.telling import settle
from llmkit_plugins.testing import MODES, ManualClock, Recorder, ScriptedBackend, drive


class Sharing:
    """Calls with the same prompt share one upstream."""

    def __init__(self, **bounds: Any) -> None:
        self.bounds = bounds

    @hookimpl
    def llmkit_pre_request(self, call: Call) -> Share | None:
        return None if call.metadata.get("alone") else Share((call.tenant, call.messages), **self.bounds)


class Scene:
    """One kit, two targets ``a`` and ``b``, and what happened: ``first`` and ``last`` heard it, in that order."""

    def __init__(self, plugins: Sequence[Any], script: Any = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.first, self.last = Recorder(), Recorder()
        self.targets = options.pop("targets", [Target("a", "p", "m"), Target("b", "p", "m")])
        self.kit = LLMKit([self.first, *plugins, self.last], self.targets, clock=self.clock, **options)
        self.backend = ScriptedBackend(script, sleep=self.clock.sleep)

    def drive(self, mode: str, call: Call | None = None) -> Any:
        """What the caller gets."""
        call = Call("hi") if call is None else call
        if mode in ("run", "stream"):
            return drive(self.kit, call, self.backend, mode)
        return self.arun(lambda: self.adrive(mode, call))

    async def adrive(self, mode: str, call: Call | None = None) -> Any:
        """What the caller gets, within a running event loop."""
        call = Call("hi") if call is None else call
        if mode == "arun":
            return (await self.kit.acall(call, self.backend)).raw
        return "".join([chunk async for chunk in self.kit.astream(call, self.backend)])

    def arun(self, scenario: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run *scenario* on an event loop of the scene's clock; it must leave no task and no complaint behind."""
        complaints: list[dict[str, Any]] = []

        async def watched() -> Any:
            asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
            try:
                return await scenario()
            finally:
                await turns(12)
                assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()

        try:
            return self.clock.run(watched())
        finally:
            assert not complaints

    def settled(self) -> bool:
        """Whether all that began has ended; tells what has not."""
        settle()
        assert not self.first.open, self.first.open
        assert not self.last.open, self.last.open
        assert not self.kit.flights
        assert not self.kit.leases
        if isinstance(self.backend, ScriptedBackend):
            assert self.backend.opened == self.backend.closed
        return True

    def aboard(self) -> int:
        """How many callers share the flights under way."""
        return sum(flight.seats for flight in list(self.kit.flights.under_way))

    @property
    def counts(self) -> dict[str, int]:
        """What the first plugin heard, routing aside."""
        return {what: times for what, times in self.first.counts.items() if what != "route"}


async def turns(number: int) -> None:
    """Let the event loop turn *number* times."""
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """How the call is made."""
    mode: str = request.param
    return mode


@pytest.fixture(params=["alone", "shared"])
def sharing(request: pytest.FixtureRequest) -> list[Any]:
    """What makes calls share, or not."""
    return [Sharing()] if request.param == "shared" else []


@pytest.fixture
def share() -> type[Sharing]:
    """The plugin that makes calls share, to be given bounds."""
    return Sharing


@pytest.fixture(autouse=True)
def only_what_the_test_makes() -> Iterator[None]:
    """The garbage collector looks at what the test makes only: a collection takes no time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(params=["rare", "constant"])
def collector(request: pytest.FixtureRequest) -> Iterator[None]:
    """The law holds whenever the garbage collector runs: as usual, or every 50 allocations."""
    usual = gc.get_threshold()
    if request.param == "constant":
        gc.set_threshold(50)
    yield
    gc.set_threshold(*usual)


@pytest.fixture
def scene() -> Iterator[Callable[..., Scene]]:
    """Makes scenes, and holds them to law 1 when the test is over."""
    made: list[Scene] = []

    def make(*plugins: Any, script: Any = None, **options: Any) -> Scene:
        made.append(Scene(plugins, script, **options))
        return made[-1]

    yield make
    for each in made:
        assert each.settled()
