"""What all five plugins add to ``Router.acompletion``, beside LiteLLM's own latency-based routing, Prometheus and
OpenTelemetry callbacks, in one run.

LiteLLM's callbacks are the process's, so that each contender has a process of its own; they take turns, one call after
the other each. What counts is the CPU time of the whole process, so what goes on behind the caller's back counts too.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from interleaved import Contender, measure, rounds_from_command_line

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

BUDGET = 0.02
BARE = "Router"
CALLS = {"mock": 60, "mock stream": 25, "HTTP": 60, "HTTP stream": 25}
REPLY = " ".join(["word"] * 20)


# -- what is compared -----------------------------------------------------------------------------------------------


def bare(models: list[Any]) -> Any:
    import litellm

    return litellm.Router(model_list=models)


def with_kit(*plugins: str) -> Callable[[list[Any]], Any]:
    def make(models: list[Any]) -> Any:
        from llmkit_litellm import LLMKitRouter

        from llmkit_plugins import LLMKit

        return LLMKitRouter(model_list=models, kit=LLMKit([_plugin(name) for name in plugins]))

    return make


def _plugin(name: str) -> Any:
    from prometheus_client import CollectorRegistry

    import llmkit_plugins as ours

    limits = [ours.Limit(requests="1000000/s", per=("user",)), ours.Limit(requests="1000000/s", per=("provider",))]
    made: dict[str, Callable[[], Any]] = {
        "observability": lambda: ours.ObservabilityPlugin(registry=CollectorRegistry()),
        "rate_limiter": lambda: ours.RateLimiterPlugin(limits=limits),
        "multiplexer": ours.MultiplexerPlugin,
        "router": ours.RouterPlugin,
        "circuit_breaker": ours.CircuitBreakerPlugin,
    }
    return made[name]()


def latency_based(models: list[Any]) -> Any:
    import litellm

    return litellm.Router(model_list=models, routing_strategy="latency-based-routing")


def latency_based_observed(models: list[Any]) -> Any:
    import litellm
    from litellm.integrations.opentelemetry import OpenTelemetry, OpenTelemetryConfig
    from litellm.integrations.prometheus import PrometheusLogger
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    litellm.callbacks = [PrometheusLogger(), OpenTelemetry(config=OpenTelemetryConfig(exporter=Nowhere()))]
    return latency_based(models)


FOUR = ("observability", "rate_limiter", "router", "circuit_breaker")
FIVE = ("observability", "rate_limiter", "multiplexer", "router", "circuit_breaker")
CONTENDERS: dict[str, Callable[[list[Any]], Any]] = {
    BARE: bare,
    "Router again (the noise)": bare,
    "ours: a kit without plugins": with_kit(),
    "ours: four, nothing is shared": with_kit(*FOUR),
    "ours: all five": with_kit(*FIVE),
    "LiteLLM: latency-based routing": latency_based,
    "LiteLLM: the same, Prometheus and OpenTelemetry": latency_based_observed,
}


# -- how ------------------------------------------------------------------------------------------------------------


def models(url: str) -> list[Any]:
    access = {"model": "openai/gpt-4o-mini", "api_key": "any", "api_base": url}
    return [{"model_name": "chat", "litellm_params": access, "model_info": {"id": name}} for name in "ab"]


async def call(router: Any, what: str, number: int) -> None:
    given: dict[str, Any] = {"mock_response": REPLY} if what.startswith("mock") else {}
    prompt = [{"role": "user", "content": f"question {number}"}]
    answer = await router.acompletion("chat", prompt, stream=what.endswith("stream"), user="ann", **given)
    if what.endswith("stream"):
        async for _ in answer:
            pass


async def batch(router: Any, what: str) -> float:
    begun = time.process_time()
    for number in range(CALLS[what]):
        await call(router, what, number)
    await asyncio.sleep(0.1)  # LiteLLM logs in the background
    return (time.process_time() - begun) / CALLS[what]


def work(connection: Connection, name: str, url: str) -> None:
    """A contender's process: it makes a batch of calls of the kind it is told, and tells the seconds of one."""
    loop = asyncio.new_event_loop()
    try:
        router = CONTENDERS[name](models(url))
        for what in CALLS:
            loop.run_until_complete(batch(router, what))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
        return
    connection.send(None)
    while (what := connection.recv()) is not None:
        connection.send(loop.run_until_complete(batch(router, what)))
    os._exit(0)  # nobody waits for LiteLLM's threads


def turn(connection: Connection, what: str) -> Contender:
    def run() -> float:
        connection.send(what)
        seconds: float = connection.recv()
        return seconds

    return run


def show(what: str, medians: dict[str, float]) -> None:
    base = medians[BARE]
    print(f"\n{what}")
    for name, seconds in medians.items():
        added = seconds / base - 1
        verdict = ""
        if name == "ours: all five":
            verdict = f"   budget {BUDGET:.0%}: {'met' if added <= BUDGET else 'MISSED'}"
        print(f"  {name:50} {seconds * 1e3:8.3f} ms {(seconds - base) * 1e6:+9.0f} µs {added:+8.1%}{verdict}")


def main() -> None:
    from llmkit_plugins.testing import FakeProvider

    rounds = rounds_from_command_line()
    context = multiprocessing.get_context("spawn")
    with FakeProvider(reply=REPLY) as provider:
        connections: dict[str, Connection] = {}
        for name in CONTENDERS:
            connections[name], theirs = context.Pipe()
            context.Process(target=work, args=(theirs, name, provider.url), daemon=True).start()
        for name, connection in list(connections.items()):
            if (trouble := connection.recv()) is not None:
                print(f"{name}: cannot be measured here ({trouble})")
                del connections[name]
        for what in CALLS:
            contenders = {name: turn(connection, what) for name, connection in connections.items()}
            show(f"Router.acompletion, {what}: CPU time of a call", measure(contenders, rounds))
        for connection in connections.values():
            connection.send(None)


if __name__ == "__main__":
    main()
