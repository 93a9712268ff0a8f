"""What policies make of an hour of calls: latency, cost and errors, beside an oracle that knows how the providers are.

``--trace FILE`` takes a CSV with the columns ``TIMESTAMP,ContextTokens,GeneratedTokens``; without it, a synthetic trace
of the same shape is played. ``--rounds N`` averages over N seeds of chance.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random as system_random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from simulation import (
    FAILURE_SECONDS,
    PROVIDERS,
    WITH_BROWN_OUTS,
    Policy,
    Provider,
    Request,
    Result,
    Site,
    Try,
    read_trace,
    simulate,
    synthetic_trace,
)

from llmkit_plugins import Attempt, Call, Usage
from llmkit_plugins.plugins.router import SmartRouter

TEXT = "abc " * 32_000
PolicyOf = Callable[[Sequence[Site]], Policy]


class Plain:
    """What simple policies have in common: they count what is in flight and learn nothing else."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites, self.random = sites, Random(1)
        self.in_flight = [0] * len(sites)
        self.calls = 0

    def sent(self, attempt: Try) -> None:
        self.in_flight[attempt.place] += 1

    def ended(self, attempt: Try) -> None:
        self.in_flight[attempt.place] -= 1


class RoundRobin(Plain):
    def choose(self, request: Request, places: Sequence[int], now: float) -> int:
        self.calls += 1
        return places[self.calls % len(places)]


class AtRandom(Plain):
    def choose(self, request: Request, places: Sequence[int], now: float) -> int:
        return self.random.choice(places)


class LeastBusy(Plain):
    def choose(self, request: Request, places: Sequence[int], now: float) -> int:
        return min(places, key=lambda place: (self.in_flight[place], self.random.random()))


class CheapestFirst(Plain):
    def choose(self, request: Request, places: Sequence[int], now: float) -> int:
        return min(places, key=lambda place: self.sites[place].provider.cost(request))


class Ewma(Plain):
    """The least of the moving averages of whole latencies, a tenth for each new one; the never tried come first."""

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__(sites)
        self.means = [0.0] * len(sites)

    def choose(self, request: Request, places: Sequence[int], now: float) -> int:
        return min(places, key=lambda place: self.means[place])

    def ended(self, attempt: Try) -> None:
        super().ended(attempt)
        seconds, mean = attempt.ended - attempt.sent, self.means[attempt.place]
        self.means[attempt.place] = mean + 0.1 * (seconds - mean) if mean else seconds


class Oracle(Plain):
    """Knows the queue of each provider, how fast it is at this moment and how often it fails; not how long this answer
    will be. Goes where the call is expected to be answered first."""

    mean_tokens = 172

    def outlook(self, request: Request, place: int, now: float) -> tuple[float, float]:
        """Expected seconds, and how likely the attempt fails."""
        site = self.sites[place]
        wait = site.wait(now)
        begins = now + wait
        provider = site.provider
        seconds = wait + provider.first_chunk(request, begins) + self.mean_tokens * provider.per_token(begins)
        return seconds, provider.failure_rate(now)

    def choose(self, request: Request, places: Sequence[int], now: float) -> int:
        outlooks = {place: self.outlook(request, place, now) for place in places}
        best = min(seconds for seconds, _ in outlooks.values())

        def expected(place: int) -> float:
            seconds, failing = outlooks[place]
            return (1.0 - failing) * seconds + failing * (FAILURE_SECONDS + best)

        return min(places, key=expected)


class CostOracle(Oracle):
    """The cheapest that hardly fails and answers within 20 seconds."""

    def choose(self, request: Request, places: Sequence[int], now: float) -> int:
        def expected(place: int) -> tuple[bool, float]:
            seconds, failing = self.outlook(request, place, now)
            return failing > 0.05 or seconds > 20.0, self.sites[place].provider.cost(request)

        return min(places, key=expected)


class ReliabilityOracle(Oracle):
    """Who fails least, however long it takes."""

    def choose(self, request: Request, places: Sequence[int], now: float) -> int:
        return min(places, key=lambda place: self.outlook(request, place, now)[::-1])


class Ours:
    """The router as a kit uses it: streams, a failover is a route among the targets that are left."""

    def __init__(self, sites: Sequence[Site], **settings: Any) -> None:
        self.now = 0.0
        self.targets = tuple(site.provider.target for site in sites)
        self.router = SmartRouter(self.targets, clock=lambda: self.now, random=Random(1).random, **settings)
        self.calls: dict[int, Call] = {}
        self.attempts: dict[int, Attempt] = {}

    def choose(self, request: Request, places: Sequence[int], now: float) -> int:
        self.now = now
        call = self.calls.get(request.number)
        if call is None:
            call = self.calls[request.number] = Call(TEXT[: 4 * request.input_tokens], "m", stream=True)
        left = self.targets if len(places) == len(self.targets) else tuple([self.targets[place] for place in places])
        return self.targets.index(self.router.route(call, left).target)

    def sent(self, attempt: Try) -> None:
        ours = Attempt(attempt.number, self.targets[attempt.place], started=attempt.sent)
        self.calls[attempt.request.number].attempts.append(ours)
        self.attempts[attempt.request.number] = ours
        self.router.begin(ours)

    def ended(self, attempt: Try) -> None:
        self.now = attempt.ended
        ours, call = self.attempts.pop(attempt.request.number), self.calls[attempt.request.number]
        ours.finished = attempt.ended
        if attempt.failed is None:
            ours.outcome, ours.first_chunk = "ok", attempt.first_chunk
            ours.usage = Usage(attempt.request.input_tokens, attempt.request.output_tokens)
        else:
            ours.outcome, ours.kind = "error", "timeout" if attempt.failed == "timeout" else "server"
        self.router.record(ours, call)
        if attempt.failed is None:
            del self.calls[attempt.request.number]


class LiteLLM(Plain):
    """LiteLLM's own latency-based handler (streams: the time to the first token), told what LiteLLM tells it; without
    the cool-downs of its Router."""

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__(sites)
        from litellm.caching.caching import DualCache
        from litellm.router_strategy.lowest_latency import LowestLatencyLoggingHandler

        self.handler = LowestLatencyLoggingHandler(DualCache())
        self.deployments = [{"model_info": {"id": str(site.place)}, "litellm_params": {}} for site in sites]
        system_random.seed(1)

    def choose(self, request: Request, places: Sequence[int], now: float) -> int:
        offered = [self.deployments[place] for place in places]
        asked = {"stream": True, "metadata": {}}
        chosen = self.handler.get_available_deployments("m", offered, request_kwargs=asked)
        return int(chosen["model_info"]["id"])

    def ended(self, attempt: Try) -> None:
        import litellm

        super().ended(attempt)
        group = {"metadata": {"model_group": "m"}, "model_info": {"id": str(attempt.place)}}
        told: dict[str, Any] = {"litellm_params": group, "stream": True}
        if attempt.failed is None:
            tokens = attempt.request.output_tokens
            usage = litellm.Usage(prompt_tokens=0, completion_tokens=tokens, total_tokens=tokens)
            answer = litellm.ModelResponse(usage=usage)
            told["completion_start_time"] = attempt.first_chunk
            self.handler.log_success_event(told, answer, attempt.sent, attempt.ended)
        elif attempt.failed == "timeout":
            told["exception"] = litellm.Timeout("late", "m", "p")
            asyncio.run(self.handler.async_log_failure_event(told, None, attempt.sent, attempt.ended))


def ours(**settings: Any) -> PolicyOf:
    return lambda sites: Ours(sites, **settings)


POLICIES: dict[str, PolicyOf] = {
    "round robin": RoundRobin,
    "random": AtRandom,
    "least busy": LeastBusy,
    "cheapest first": CheapestFirst,
    "least EWMA": Ewma,
    "LiteLLM, latency-based": LiteLLM,
    "ours, latency": ours(optimize_for="latency"),
    "ours, latency, power of two": ours(optimize_for="latency", power_of_two_above=0),
    "ours, cost": ours(optimize_for="cost"),
    "ours, reliability": ours(optimize_for="reliability"),
    "ours, balanced": ours(optimize_for="balanced"),
    "ours, within 10 s": ours(max_latency_seconds=10.0),
    "oracle, latency": Oracle,
    "oracle, cost": CostOracle,
    "oracle, reliability": ReliabilityOracle,
}


@dataclass(frozen=True)
class Means:
    """Averages over the rounds."""

    mean: float
    p95: float
    cost: float
    errors: float

    @classmethod
    def of(cls, results: Sequence[Result]) -> Means:
        columns = [(result.mean, result.p95, result.cost, result.errors) for result in results]
        return cls(*map(statistics.fmean, zip(*columns, strict=True)))


def play(title: str, trace: Sequence[Request], providers: Sequence[Provider], rounds: int) -> Mapping[str, Means]:
    """Every policy through *trace*, as a table."""
    print(f"\n{title}: {len(trace):,} calls, {rounds} round{'s' if rounds > 1 else ''}")
    print(f"  {'':28} {'mean':>8} {'p95':>8} {'cost':>9} {'errors':>7} {'regret':>8}   (mean over the oracle's)")
    reached = {
        name: Means.of([simulate(policy, trace, providers, seed) for seed in range(1, rounds + 1)])
        for name, policy in POLICIES.items()
    }
    best = reached["oracle, latency"].mean
    for name, it in reached.items():
        figures = f"{it.mean:6.2f} s {it.p95:6.2f} s {it.cost:8.2f}$ {it.errors:7.0f} {it.mean / best - 1:+8.1%}"
        print(f"  {name:28} {figures}")
    return reached


def judge(reached: Mapping[str, Means]) -> None:
    """What was to be reached, what was, and what the oracle reaches."""
    base, fast, cheap, sure = (
        reached[name] for name in ("round robin", "ours, latency", "ours, cost", "ours, reliability")
    )
    best, least, surest = (reached[f"oracle, {goal}"] for goal in ("latency", "cost", "reliability"))
    rows = [
        ("latency mode: mean below round robin", 1 - fast.mean / base.mean, ">=", 0.20, 1 - best.mean / base.mean),
        ("latency mode: mean over the oracle", fast.mean / best.mean - 1, "<=", 0.10, 0.0),
        ("cost mode: cost below round robin", 1 - cheap.cost / base.cost, ">=", 0.40, 1 - least.cost / base.cost),
        (
            "cost mode: errors more than round robin",
            cheap.errors / base.errors - 1,
            "<=",
            0.0,
            least.errors / base.errors - 1,
        ),
        (
            "reliability mode: errors avoided",
            1 - sure.errors / base.errors,
            ">=",
            0.90,
            1 - surest.errors / base.errors,
        ),
    ]
    for what, ours, sign, target, oracle in rows:
        ours_met, oracle_met = (it >= target if sign == ">=" else it <= target for it in (ours, oracle))
        verdict = "met" if ours_met else "MISSED" if oracle_met else "MISSED, by the oracle too"
        print(f"  {what:42} {ours:+7.1%}   the oracle {oracle:+7.1%}   {sign} {target:+.0%}: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, help="a CSV to play instead of the synthetic trace")
    parser.add_argument("--rounds", type=int, default=3, help="seeds of chance to average over")
    parser.add_argument("--quick", action="store_true", help="one round, and only with brown-outs")
    given = parser.parse_args()
    _prepare_litellm()
    trace = read_trace(given.trace) if given.trace else synthetic_trace()
    rounds = 1 if given.quick else given.rounds
    judge(play("an hour with brown-outs", trace, WITH_BROWN_OUTS, rounds))
    if not given.quick:
        judge(play("a calm hour", trace, PROVIDERS, rounds))


def _prepare_litellm() -> None:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        import litellm  # noqa: F401
    except ImportError:
        del POLICIES["LiteLLM, latency-based"]
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    main()
