"""The first metrics: right in every end of a call, on the registry asked for, and served over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from llmkit_plugins import (
    Attempt,
    Backend,
    Call,
    ConfigError,
    LLMKit,
    RateLimited,
    Share,
    Target,
    Usage,
    hookimpl,
)
from llmkit_plugins.plugins.observability import ObservabilityPlugin


class Timeout500(Exception):
    status_code = 500


class Scripted(Backend):
    """Answers, or fails at the targets named; each takes half a second of the clock it is given."""

    def __init__(self, clock: Any, failing: tuple[str, ...] = ()) -> None:
        self.clock, self.failing = clock, failing

    def send(self, call: Call, attempt: Attempt | None) -> Any:
        assert attempt is not None
        self.clock.now += 0.5
        if attempt.target.name in self.failing:
            raise Timeout500("down")
        attempt.usage = Usage(7, 3)
        return "answer"

    async def asend(self, call: Call, attempt: Attempt | None) -> Any:
        await asyncio.sleep(0)
        return self.send(call, attempt)

    def stream(self, call: Call, attempt: Attempt | None) -> Iterator[Any]:
        yield "one"
        self.send(call, attempt)
        yield "two"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Refuse:
    @hookimpl
    def llmkit_pre_request(self, call: Call) -> None:
        raise RateLimited("user", call.user or "", 1.0)


class ShareAll:
    @hookimpl
    def llmkit_pre_request(self) -> Share:
        return Share("all")


A, B = Target("a", "p1", "m1"), Target("b", "p2", "m2")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def kit_on(registry: CollectorRegistry, *others: Any, clock: Clock | None = None) -> LLMKit:
    return LLMKit([ObservabilityPlugin(registry=registry), *others], [A, B], clock=clock or Clock())


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(name, labels) or 0.0


def test_an_answer_is_timed_and_its_tokens_counted(registry: CollectorRegistry) -> None:
    """A good call is one request of half a second and ten tokens, at the target that answered."""
    clock = Clock()
    kit_on(registry, clock=clock).call(Call("hi"), Scripted(clock))
    labels = {"provider": "p1", "model": "m1", "outcome": "ok"}
    assert value(registry, "llmkit_request_duration_seconds_count", **labels) == 1
    assert value(registry, "llmkit_request_duration_seconds_sum", **labels) == 0.5
    tokens = "llmkit_request_tokens_total"
    assert value(registry, tokens, provider="p1", model="m1", direction="input") == 7
    assert value(registry, tokens, provider="p1", model="m1", direction="output") == 3
    assert value(registry, "llmkit_request_active") == 0


def test_a_failover_counts_the_error_where_it_happened(registry: CollectorRegistry) -> None:
    """The first provider's failure is its own; the request belongs to the one that answered."""
    clock = Clock()
    kit_on(registry, clock=clock).call(Call("hi"), Scripted(clock, failing=("a",)))
    assert value(registry, "llmkit_provider_errors_total", provider="p1", model="m1", error_type="server") == 1
    answered = {"provider": "p2", "model": "m2", "outcome": "ok"}
    assert value(registry, "llmkit_request_duration_seconds_sum", **answered) == 1.0


def test_a_refused_call_reached_no_provider(registry: CollectorRegistry) -> None:
    """Its provider is ``none`` and its outcome tells it from a failure."""
    with pytest.raises(RateLimited):
        kit_on(registry, Refuse()).call(Call("hi", model="gpt"), Scripted(Clock()))
    labels = {"provider": "none", "model": "gpt", "outcome": "refused"}
    assert value(registry, "llmkit_request_duration_seconds_count", **labels) == 1
    assert value(registry, "llmkit_request_active") == 0


def test_an_abandoned_stream_is_no_longer_active(registry: CollectorRegistry) -> None:
    """Active while it streams, cancelled and gone once it is closed."""
    clock = Clock()
    stream = kit_on(registry, clock=clock).stream(Call("hi"), Scripted(clock))
    next(stream)
    assert value(registry, "llmkit_request_active") == 1
    stream.close()
    assert value(registry, "llmkit_request_active") == 0
    labels = {"provider": "p1", "model": "m1", "outcome": "cancelled"}
    assert value(registry, "llmkit_request_duration_seconds_count", **labels) == 1


async def test_a_shared_answer_counts_its_tokens_once(registry: CollectorRegistry) -> None:
    """Five callers of one upstream are five requests and one answer's tokens."""
    clock = Clock()
    kit = kit_on(registry, ShareAll(), clock=clock)
    await asyncio.gather(*[kit.acall(Call("hi"), Scripted(clock)) for _ in range(5)])
    labels = {"provider": "p1", "model": "m1", "outcome": "ok"}
    assert value(registry, "llmkit_request_duration_seconds_count", **labels) == 5
    assert value(registry, "llmkit_request_tokens_total", provider="p1", model="m1", direction="input") == 7


def test_an_unclassified_error_is_known_by_its_class(registry: CollectorRegistry) -> None:
    """A bug in a backend has no kind, so its class stands in."""

    class Broken(Backend):
        def send(self, call: Call, attempt: Attempt | None) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kit_on(registry).call(Call("hi"), Broken())
    errors = {"provider": "p1", "model": "m1", "error_type": "ZeroDivisionError"}
    assert value(registry, "llmkit_provider_errors_total", **errors) == 1


def test_two_kits_share_the_metrics_of_one_registry(registry: CollectorRegistry) -> None:
    """A second kit on the same registry adds to the metrics of the first instead of clashing with them."""
    clock = Clock()
    for _ in range(2):
        kit_on(registry, clock=clock).call(Call("hi"), Scripted(clock))
    labels = {"provider": "p1", "model": "m1", "outcome": "ok"}
    assert value(registry, "llmkit_request_duration_seconds_count", **labels) == 2


def test_the_registry_is_the_process_default_or_its_own() -> None:
    """Without a registry the metrics stand beside the application's own, unless they are to be kept apart."""
    assert ObservabilityPlugin().registry is REGISTRY
    assert ObservabilityPlugin(own_registry=True).registry is not REGISTRY


def test_metrics_are_served_until_the_kit_closes() -> None:
    """``/metrics`` parses as Prometheus text while the kit is open, and is gone afterwards."""
    plugin = ObservabilityPlugin(own_registry=True, metrics_port=0)
    clock = Clock()
    with LLMKit([plugin], [A], clock=clock) as kit:
        kit.call(Call("hi"), Scripted(clock))
        url = plugin.metrics_url
        assert url is not None
        text = httpx.get(url).text
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {"llmkit_request_duration_seconds", "llmkit_request_tokens", "llmkit_request_active"} <= families
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    assert plugin.metrics_url is None


def test_a_port_that_is_taken_is_named() -> None:
    """The error says which port, on which address, and what would be right."""
    first = ObservabilityPlugin(own_registry=True, metrics_port=0)
    with LLMKit([first]):
        assert first.metrics_url is not None
        port = httpx.URL(first.metrics_url).port
        with pytest.raises(ConfigError, match=rf"observability\.metrics_port: .*127\.0\.0\.1:{port}.*0 for any"):
            LLMKit([ObservabilityPlugin(own_registry=True, metrics_port=port)])
