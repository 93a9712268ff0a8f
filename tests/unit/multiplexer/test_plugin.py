"""The multiplexer in a kit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmkit_plugins import Call, LLMKit, Target
from llmkit_plugins.plugins.multiplexer import MultiplexerPlugin
from llmkit_plugins.testing import Failure, Last, Pause, PluginConformance, ScriptedBackend, adrive, drive

ASKED = [{"role": "user", "content": "hi"}]
SLOWLY = ["a", Pause(1.0), "b", Pause(1.0), Last("c")]


class TestConformance(PluginConformance):
    def make_plugin(self) -> MultiplexerPlugin:
        return MultiplexerPlugin()


class TestConformanceRetaining(PluginConformance):
    def make_plugin(self) -> MultiplexerPlugin:
        return MultiplexerPlugin(retain_seconds=5.0)


@pytest.fixture(params=["arun", "astream"])
def awaited(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["run", "stream", "arun", "astream"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_hundred_callers(scene: Any, awaited: str) -> None:
    """One attempt; each has the whole answer; what was saved is told in calls, tokens and dollars."""
    scene = scene(SLOWLY)
    calls = [Call(ASKED, user=f"user-{number}") for number in range(100)]

    async def scenario() -> list[str]:
        return await asyncio.gather(*[adrive(scene.kit, call, scene.backend, awaited) for call in calls])

    assert scene.clock.run(scenario()) == ["abc"] * 100
    assert scene.backend.sent == {"a": 1}
    assert scene.heard.counts["request shared"] == 99
    leader, *followers = calls
    assert {(call.response.shared, call.response.cost) for call in followers} == {(leader.id, 0.0)}
    assert (leader.response.shared, leader.response.cost) == (None, 8.0)
    stats = scene.plugin.stats()
    assert (stats.upstream_calls_saved, stats.tokens_saved, stats.usd_saved) == (99, 99 * 8, 99 * 8.0)
    assert (stats.active_requests, stats.total_subscribers, stats.bytes_held) == (0, 0, 0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"tenant": "one"}, {"tenant": "other"}),
        ({"metadata": {"credential": "one"}}, {"metadata": {"credential": "other"}}),
        ({"params": {"n": 2}}, {"params": {"n": 2}}),
        ({"metadata": {"share": False}}, {}),
        ({"metadata": {"cache": {"no-cache": True}}}, {}),
    ],
)
def test_never_shared(scene: Any, awaited: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    """Other tenants and credentials, several answers, and calls that want no shared one have an upstream each."""
    scene = scene(SLOWLY)
    calls = [Call(ASKED, **first), Call(ASKED, **second)]

    async def scenario() -> list[str]:
        return await asyncio.gather(*[adrive(scene.kit, call, scene.backend, awaited) for call in calls])

    assert scene.clock.run(scenario()) == ["abc"] * 2
    assert scene.backend.sent == {"a": 2}
    assert [call.response.shared for call in calls] == [None, None]


def test_failover_happens_once_for_all(awaited: str) -> None:
    """A target that fails before the first chunk is left once, whatever the number of callers."""
    kit = LLMKit([MultiplexerPlugin()], [Target("a", "p", "m"), Target("b", "p", "m")])
    backend = ScriptedBackend({"a": ["", Failure("overloaded")]})

    async def scenario() -> list[str]:
        return await asyncio.gather(*[adrive(kit, Call(ASKED), backend, awaited) for _ in range(10)])

    assert asyncio.run(scenario()) == ["abc"] * 10
    assert backend.sent == {"a": 1, "b": 1}


def test_late_duplicates(scene: Any, mode: str) -> None:
    """A finished answer serves them for a while, as what it is: made for another call, and free."""
    scene = scene(["a", "b", Last("c")], retain_seconds=10.0)

    def ask() -> Call:
        call = Call(ASKED)
        assert drive(scene.kit, call, scene.backend, mode) == "abc"
        return call

    first = ask()
    scene.clock.advance(9.0)
    second = ask()
    assert (second.response.shared, second.response.cost, second.attempts) == (first.id, 0.0, [])
    assert (second.response.usage, second.response.raw) == (first.response.usage, first.response.raw)
    stats = scene.plugin.stats()
    assert (stats.upstream_calls_saved, stats.retained_answers, stats.tokens_saved) == (1, 1, 8)
    assert stats.bytes_held > 0
    scene.clock.advance(1.0)
    assert ask().response.shared is None
    assert scene.backend.sent == {"a": 2}


def test_what_is_not_retained(scene: Any, mode: str) -> None:
    """Answers of other calls, answers of the other kind, and failures."""
    scene = scene(["x", Failure("bad_request")], retain_seconds=10.0)
    with pytest.raises(Failure):
        drive(scene.kit, Call(ASKED), scene.backend, mode)
    scene.backend.default = ["a"]
    assert drive(scene.kit, Call(ASKED), scene.backend, mode) == "a"
    scene.backend.default = ["b"]
    other = {"run": "stream", "stream": "run", "arun": "astream", "astream": "arun"}[mode]
    assert drive(scene.kit, Call(ASKED), scene.backend, other) == "b"
    assert drive(scene.kit, Call(ASKED, tenant="t"), scene.backend, mode) == "b"
    assert drive(scene.kit, Call(ASKED), scene.backend, mode) == "a"


def test_complete_request(scene: Any, mode: str) -> None:
    """What was retained is forgotten where its time is said to be over."""
    scene = scene(["a"], retain_seconds=10.0)
    drive(scene.kit, Call(ASKED), scene.backend, mode)
    assert scene.plugin.multiplexer.complete_request(Call(ASKED))
    assert not scene.plugin.multiplexer.complete_request(Call(ASKED))
    drive(scene.kit, Call(ASKED), scene.backend, mode)
    assert scene.backend.sent == {"a": 2}


def test_retained_answers_are_copied(scene: Any, mode: str) -> None:
    """Who changes what he got changes nobody else's."""
    scene = scene(["a", "b"], retain_seconds=10.0)
    scene.backend.copy = lambda chunk: f"{chunk}+"
    first = drive(scene.kit, Call(ASKED), scene.backend, mode)
    assert drive(scene.kit, Call(ASKED), scene.backend, mode) == first
    assert first == ("ab+" if "run" in mode else "a+b+")


def test_closing_forgets(scene: Any) -> None:
    """A closed kit holds nothing."""
    scene = scene(["a"], retain_seconds=10.0)
    drive(scene.kit, Call(ASKED), scene.backend, "run")
    scene.kit.close()
    assert scene.plugin.stats().retained_answers == 0


def test_what_cannot_be_retained_is_nobodys_error(scene: Any, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """A bug while it is kept is logged, and the answer is there all the same."""
    scene = scene(["a"], retain_seconds=10.0)

    def broken(_: Any) -> None:
        raise ZeroDivisionError

    scene.plugin.multiplexer._bounds = (*scene.plugin.multiplexer._bounds[:-1], broken)
    assert drive(scene.kit, Call(ASKED), scene.backend, mode) == "a"
    assert "ZeroDivisionError" in caplog.text


def test_from_config() -> None:
    """The settings are those of the plugin's table."""
    plugin = MultiplexerPlugin(scope="user", retain_seconds=2, ignored_params=["x"])
    assert (plugin.config.scope, plugin.config.retain_seconds, plugin.config.ignored_params) == ("user", 2.0, {"x"})
    assert LLMKit([plugin]).plugins == {"multiplexer": plugin}
    assert (plugin.config.scope, plugin.multiplexer.flights) == ("user", plugin.multiplexer.flights)


def test_a_call_that_a_framework_sends() -> None:
    """It can share nothing, so its prompt is not even looked at."""

    class Private(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            raise AssertionError("somebody looked at the prompt")

    target = Target("a", "openai", "gpt-4o-mini")
    with LLMKit([MultiplexerPlugin()], on_plugin_error="raise") as kit:
        call = Call(Private(ASKED))
        kit.begin(call, target).finish("answer")
        assert (call.answerable, call.outcome) == (False, "ok")
