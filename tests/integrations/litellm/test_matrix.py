"""Every entrance, way and end: with all five plugins, each hears each call and attempt begin and end exactly once."""

from __future__ import annotations

import asyncio

import litellm
import pytest
from prometheus_client import CollectorRegistry

from llmkit_plugins import (
    CircuitBreakerPlugin,
    Limit,
    LLMKit,
    MultiplexerPlugin,
    ObservabilityPlugin,
    RateLimiterPlugin,
    RouterPlugin,
)
from llmkit_plugins.testing import Recorder
from llmkit_plugins.testing.fake_provider import Fault

ENDS = ["ok", "failover", "over limit", "circuit open", "cancelled", "abandoned", "all down"]
MODES = ["sync", "async", "sync stream", "async stream"]


def _exists(entrance, mode, end):
    """The SDK has one target, a thread cannot be cancelled, and only a stream can be abandoned."""
    if end == "failover":
        return entrance != "sdk"
    if end == "cancelled":
        return mode.startswith("async")
    return mode.endswith("stream") if end == "abandoned" else True


CELLS = [(e, m, end) for e in ("sdk", "router", "installed") for m in MODES for end in ENDS if _exists(e, m, end)]


class Five:
    """The five plugins in a kit, and who listens before and after them."""

    def __init__(self, alphabetical):
        self.registry = CollectorRegistry()
        self.outer, self.inner = Recorder(), Recorder()
        self.breaker = CircuitBreakerPlugin(consecutive_failures=100)
        limits = [
            Limit(requests="1/h", per=("user",), match={"user": "spent"}),
            Limit(concurrency=1, per=("user",), match={"user": "ann"}),
        ]
        listed = [
            self.outer,
            ObservabilityPlugin(registry=self.registry),
            RateLimiterPlugin(limits=limits),
            MultiplexerPlugin(),
            RouterPlugin(),
            self.breaker,
            alphabetical,
            self.inner,
        ]
        self.kit = LLMKit(listed, on_plugin_error="raise")

    def metric(self, name, **labels):
        """The sum of a metric over the labels that are not given."""
        samples = (sample for family in self.registry.collect() for sample in family.samples if sample.name == name)
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@pytest.fixture
def five(alphabetical):
    """All five; in the end nothing is open or held."""
    five = Five(alphabetical)
    with five.kit:
        yield five
        assert not five.outer.open
        assert not five.inner.open
        assert not five.kit.leases
        assert not five.kit.flights
        assert five.metric("llmkit_request_active") == 0
        assert not five.kit.bugs


@pytest.fixture
def kit(five):
    """The kit of the five."""
    return five.kit


async def _ends_ok(mode, entrance, ask, five, first, second):
    assert await ask(mode, entrance, user="ann") == "one two three"
    return {"attempt": 1, "attempt ok": 1, "request ok": 1}


async def _ends_after_failover(mode, entrance, ask, five, first, second):
    first.fail_with(Fault("overloaded"))
    assert await ask(mode, entrance, user="ann") == "four five"
    return {"attempt": 2, "attempt error": 1, "attempt ok": 1, "request ok": 1}


async def _ends_over_limit(mode, entrance, ask, five, first, second):
    await ask(mode, entrance, user="spent")
    five.inner.counts.clear()
    five.outer.counts.clear()
    with pytest.raises(litellm.RateLimitError) as raised:
        await ask(mode, entrance, user="spent")
    assert int(raised.value.headers["retry-after"]) > 3000
    assert first.stats.requests + second.stats.requests == 1
    return {"request refused": 1}


async def _ends_at_open_circuits(mode, entrance, ask, five, first, second):
    for target in entrance.targets:
        five.breaker.breaker(target).force_open()
    with pytest.raises(litellm.ServiceUnavailableError):
        await ask(mode, entrance, user="ann")
    assert first.stats.requests + second.stats.requests == 0
    for target in entrance.targets:
        five.breaker.breaker(target).force_closed()
    return {"request refused": 1}


async def _ends_cancelled(mode, entrance, ask, five, first, second):
    first.slow_down(first_token_seconds=60.0)
    task = asyncio.create_task(ask(mode, entrance, user="ann"))
    await asyncio.to_thread(first.wait_until, lambda stats: stats.in_flight == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await asyncio.to_thread(first.wait_until, lambda stats: stats.clients_left == 1)
    return {"attempt": 1, "attempt cancelled": 1, "request cancelled": 1}


async def _ends_abandoned(mode, entrance, ask, five, first, second):
    first.slow_down(per_token_seconds=60.0)
    if mode == "sync stream":
        stream = await asyncio.to_thread(entrance.completion, stream=True, user="ann")
        await asyncio.to_thread(next, stream)
        await asyncio.to_thread(stream.close)
    else:
        stream = await entrance.acompletion(stream=True, user="ann")
        await anext(stream)
        await stream.aclose()
    await asyncio.to_thread(first.wait_until, lambda stats: stats.clients_left == 1)
    return {"attempt": 1, "attempt cancelled": 1, "request cancelled": 1}


async def _ends_with_all_down(mode, entrance, ask, five, first, second):
    for provider in (first, second):
        provider.fail_with(Fault("overloaded"))
    with pytest.raises(litellm.ServiceUnavailableError):
        await ask(mode, entrance, user="ann")
    tries = 1 if entrance.kind == "sdk" else 3  # the Router retries twice
    return {"attempt": tries, "attempt error": tries, "request error": 1}


BRING = {
    "ok": _ends_ok,
    "failover": _ends_after_failover,
    "over limit": _ends_over_limit,
    "circuit open": _ends_at_open_circuits,
    "cancelled": _ends_cancelled,
    "abandoned": _ends_abandoned,
    "all down": _ends_with_all_down,
}


@pytest.mark.parametrize(("kind", "mode", "end"), CELLS)
async def test_each_plugin_hears_all_of_it_once(enter, kind, mode, end, ask, five, first, second):
    """Whatever the end, what began has ended once for each plugin, and the same user's next call goes through."""
    entrance = enter(kind)
    heard = {"request": 1, **await BRING[end](mode, entrance, ask, five, first, second)}
    assert {what: times for what, times in five.outer.counts.items() if what != "route"} == heard
    unasked = {} if end == "over limit" else heard  # refused before those that come later are asked
    assert {what: times for what, times in five.inner.counts.items() if what != "route"} == unasked
    assert five.metric("llmkit_request_active") == 0
    ended = five.metric("llmkit_request_duration_seconds_count")
    for provider in (first, second):
        provider.heal()
    assert await ask(mode, entrance, user="ann", max_tokens=7) == "one two three"
    assert five.metric("llmkit_request_duration_seconds_count") == ended + 1
