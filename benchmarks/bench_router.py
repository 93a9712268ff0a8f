"""A decision and what is learned from its outcome, with 3 to 1000 targets, beside LiteLLM's latency-based and shuffled
choice among as many deployments.

In a flood, answers of a target come less than a hundredth of a second apart, and most are only added up. Apart, each is
learned from at once."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from interleaved import Contender, measure, rounds_from_command_line, show

from llmkit_plugins import Attempt, Call, Target, Usage
from llmkit_plugins.plugins.router import RouterPlugin, SmartRouter, track

COUNTS = (3, 10, 100, 1000)
CLOCK = time.perf_counter
CHAT = [
    {"role": "system", "content": "You are a helpful assistant. " * 20},
    {"role": "user", "content": "What is special about 42?"},
    {"role": "assistant", "content": "It is the answer."},
    {"role": "user", "content": "To what?"},
]
FLOOD_SECONDS = track.FLOOD_SECONDS
BARE = "a bare call of a function"


def targets(count: int) -> tuple[Target, ...]:
    return tuple(
        Target(f"t{n}", "provider", "model", input_price=1.0 + n % 7, output_price=4.0 + n % 7) for n in range(count)
    )


def ended(target: Target, n: int) -> Attempt:
    """A streamed attempt that went well in 2 to 3.5 seconds: one *n* of four is the fastest."""
    attempt = Attempt(1, target)
    attempt.started, attempt.first_chunk, attempt.finished = 10.0, 10.4 + n % 5 / 10, 12.0 + n % 4 / 2
    attempt.outcome, attempt.usage = "ok", Usage(200, 150)
    return attempt


def trained(count: int, **settings: Any) -> SmartRouter:
    """A router that has learned from a hundred answers of each target, each beside three others; two are in flight."""
    router = SmartRouter(targets(count), **settings)
    call = Call(CHAT, "model")
    for place, target in enumerate(router.targets):
        others = [ended(target, place) for _ in range(3)]
        for attempt in others:
            router.begin(attempt)
        for _ in range(100):
            attempt = ended(target, place)
            router.begin(attempt)
            router.record(attempt, call)
        router.record(others[0], call)
    return router


def each(work: Callable[[], Any], times: int = 2_000) -> Contender:
    def run() -> float:
        begun = CLOCK()
        for _ in range(times):
            work()
        return (CLOCK() - begun) / times

    return run


def whole(router: SmartRouter, *, begin: bool = True, flood: bool = True) -> Contender:
    """Route, perhaps begin, and record, of calls and attempts made beforehand; as in a flood, or each learned from at
    once. The loop itself is subtracted."""
    calls = [Call(CHAT, "model") for _ in range(100)] * 50
    attempts = {target: ended(target, n) for n, target in enumerate(router.targets)}

    def run() -> float:
        track.FLOOD_SECONDS = FLOOD_SECONDS if flood else float("-inf")
        begun = CLOCK()
        for call in calls:
            attempt = attempts[router.route(call).target]
            if begin:
                router.begin(attempt)
            router.record(attempt, call)
        over, decision = CLOCK(), router.route(calls[0])
        looped = CLOCK()
        for _ in calls:
            attempts[decision.target]
        return (over - begun - (CLOCK() - looped)) / len(calls)

    return run


def hooks(count: int, **settings: Any) -> Contender:
    """The plugin's three hooks, as a kit calls them."""
    plugin = RouterPlugin(**settings)
    plugin.router = trained(count, **settings)
    offered = plugin.router.targets
    calls = [Call(CHAT, "model") for _ in range(100)] * 20
    attempts = {target: ended(target, n) for n, target in enumerate(offered)}

    def run() -> float:
        begun = CLOCK()
        for call in calls:
            attempt = attempts[plugin.llmkit_route(call, offered)[0]]
            plugin.llmkit_pre_attempt(attempt)
            plugin.llmkit_post_attempt(call, attempt)
        return (CLOCK() - begun) / len(calls)

    return run


def nothing() -> None:
    pass


def ours(rounds: int) -> None:
    call = Call("hi", "model")
    bare = {BARE: each(nothing, 20_000)}
    two = {n: trained(n, optimize_for="latency", power_of_two_above=0) for n in COUNTS}
    flood = bare | {f"{n} targets": whole(two[n], begin=False) for n in COUNTS}
    show("route and record in a flood, with power of two", measure(flood, rounds), BARE, _all(flood, 1.0))
    begun = bare | {f"{n} targets": whole(two[n]) for n in COUNTS}
    show("route, begin and record in a flood", measure(begun, rounds), BARE)
    apart = bare | {f"{n} targets": whole(two[n], flood=False) for n in COUNTS}
    show("route, begin and record, each answer learned from at once", measure(apart, rounds), BARE)

    attempt = ended(two[10].targets[0], 0)
    learning = {
        "route": each(lambda: two[10].route(call)),
        "record": each(lambda: two[10].record(attempt, call)),
        "begin and record": each(lambda: (two[10].begin(attempt), two[10].record(attempt, call))),
    }
    track.FLOOD_SECONDS = FLOOD_SECONDS
    show("of which", measure(bare | learning, rounds), BARE)

    ten = {f"by {mode}": trained(10, optimize_for=mode) for mode in ("latency", "cost", "reliability", "balanced")}
    ten["the cheapest within objectives"] = trained(10, max_latency_seconds=5.0, min_success_rate=0.9)
    ranking = bare | {name: each(lambda router=router: router.route(call)) for name, router in ten.items()}
    ranking["by latency, with the fallbacks"] = each(lambda: ten["by latency"].route(call).order)
    show("ranking 10 targets", measure(ranking, rounds), BARE, {"by latency": 3.0})

    modes = {"by latency": {"optimize_for": "latency"}, "balanced": {}}
    plugin = bare | {f"{n} targets, {mode}": hooks(n, **each) for n in (3, 10, 1000) for mode, each in modes.items()}
    show("the plugin's hooks: route, pre_attempt, post_attempt", measure(plugin, rounds), BARE)


def _all(names: Sequence[str] | dict[str, Any], budget: float) -> dict[str, float]:
    return {name: budget for name in names if name != BARE}


def litellm(rounds: int) -> None:
    """The same question, asked of LiteLLM's Router: which deployment."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        import litellm
    except ImportError:
        print("\nLiteLLM is not installed: nothing to compare with")
        return
    logging.getLogger("LiteLLM Router").setLevel(logging.ERROR)
    contenders: dict[str, Contender] = {}
    for strategy in ("latency-based-routing", "simple-shuffle"):
        for count in COUNTS:
            deployments = [
                {
                    "model_name": "m",
                    "litellm_params": {"model": f"openai/t{n}", "api_key": "k"},
                    "model_info": {"id": str(n)},
                }
                for n in range(count)
            ]
            router = litellm.Router(model_list=deployments, routing_strategy=strategy)
            ask = lambda router=router: router.get_available_deployment(model="m", messages=CHAT, request_kwargs={})  # noqa: E731
            contenders[f"{strategy}, {count}"] = each(ask, max(1, 300 // count))
    two = {f"ours, power of two, {n}": each(lambda n=n: ROUTERS[n].route(Call(CHAT, "model"))) for n in COUNTS}
    show("a decision alone, beside LiteLLM's", measure(two | contenders, rounds), "ours, power of two, 3")


ROUTERS = {n: trained(n, optimize_for="latency", power_of_two_above=0) for n in COUNTS}


def main() -> None:
    rounds = rounds_from_command_line()
    ours(rounds)
    litellm(min(rounds, 5))


if __name__ == "__main__":
    main()
