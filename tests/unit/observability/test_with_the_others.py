"""What the plugins beside it publish arrives in metrics, spans and the log."""

from __future__ import annotations

import asyncio

import pytest

from llmkit_plugins import Call, Limit, RateLimited
from llmkit_plugins.plugins.circuit_breaker import CircuitBreakerPlugin
from llmkit_plugins.plugins.multiplexer import MultiplexerPlugin
from llmkit_plugins.plugins.rate_limiter import RateLimiterPlugin
from llmkit_plugins.plugins.router import RouterPlugin
from llmkit_plugins.testing import Failure, ScriptedBackend


def ask(kit, backend, n: int = 0) -> None:
    kit.call(Call([{"role": "user", "content": f"hi {n}"}], user="u1"), backend)


def test_a_limit_that_is_used_up(make_kit, value):
    """The third call of a limit of two is refused, and counted under the limit's name."""
    kit = make_kit(RateLimiterPlugin(limits=[Limit(requests="2/min", per=("user",), name="per user")]))
    for n in range(2):
        ask(kit, ScriptedBackend(), n)
    with pytest.raises(RateLimited):
        ask(kit, ScriptedBackend(), 2)
    assert value("llmkit_limit_reached_total", limit="per user", action="refused") == 1
    assert value("llmkit_refusals_total", reason="rate_limited") == 1


def test_a_circuit_that_opens(make_kit, value):
    """Two failures in a row open the circuit of their target."""
    kit = make_kit(CircuitBreakerPlugin(consecutive_failures=2))
    for n in range(3):
        ask(kit, ScriptedBackend({"a": [Failure("server")]}), n)
    assert value("llmkit_circuit_state", target="a", state="open") == 1
    assert value("llmkit_provider_errors_total", provider="p1", model="m1", error_type="server") == 2


def test_a_router_that_decides(make_kit, value, exporter):
    """Each decision is counted with its reason, is an event of the request, and its prediction is held against what
    came."""
    kit = make_kit(RouterPlugin())
    ask(kit, ScriptedBackend(default=["hi"]))
    decided = [
        (event.attributes["llmkit.target"], event.attributes["llmkit.route.reason"])
        for span in exporter.get_finished_spans()
        for event in span.events
        if event.name == "llmkit.routed"
    ]
    ((target, reason),) = decided
    provider, model = {"a": ("p1", "m1"), "b": ("p2", "m2")}[target]
    assert value("llmkit_route_decisions_total", provider=provider, model=model, reason=reason) == 1
    assert value("llmkit_route_latency_ratio_count", provider=provider, model=model) == 1


async def test_a_multiplexer_that_shares(make_kit, value):
    """Three identical calls at once are one upstream call and two saved."""
    kit, backend = make_kit(MultiplexerPlugin()), ScriptedBackend()
    messages = [{"role": "user", "content": "hi"}]
    await asyncio.gather(*[kit.acall(Call(messages), backend) for _ in range(3)])
    assert sum(backend.sent.values()) == 1
    assert value("llmkit_upstream_calls_saved_total", by="sharing") == 2
