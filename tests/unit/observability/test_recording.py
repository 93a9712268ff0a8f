"""What is counted for each way a call can go, in every mode; refusals, limits, circuits, routes, sharing."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from unittest.mock import patch

import pytest
from prometheus_client import generate_latest

from llmkit_plugins import (
    Answer,
    Call,
    CircuitOpen,
    LLMKit,
    NoTarget,
    RateLimited,
    Refused,
    Response,
    Share,
    Target,
    Usage,
    Wait,
)
from llmkit_plugins.events import CircuitChanged, LimitReached, Routed
from llmkit_plugins.plugins.observability import ObservabilityPlugin
from llmkit_plugins.plugins.observability.counting import NOTES
from llmkit_plugins.plugins.observability.instruments import OVERFLOW
from llmkit_plugins.testing import MODES, Failure, Last, Pause, ScriptedBackend, drive


@pytest.fixture
def slow(clock) -> ScriptedBackend:
    """A second to the first text, two more to the fifth and last token."""
    script = [Pause(1.0), "one", Pause(2.0), Last("two", Usage(7, 5))]
    return ScriptedBackend(default=script, sleep=clock.sleep)


WHO = {"provider": "p1", "model": "m1"}


@pytest.mark.parametrize("mode", ["stream", "astream"])
def test_a_stream_is_timed_to_its_first_token_and_per_token(mode, make_kit, value, slow):
    """A second to the first token, half a second for each of the four after it."""
    drive(make_kit(), Call("hi"), slow, mode)
    assert value("llmkit_time_to_first_token_seconds_sum", **WHO) == pytest.approx(1.0)
    assert value("llmkit_time_per_output_token_seconds_sum", **WHO) == pytest.approx(0.5)
    assert value("llmkit_attempt_duration_seconds_sum", **WHO, outcome="ok") == pytest.approx(3.0)


@pytest.mark.parametrize("mode", ["stream", "astream"])
def test_the_chunks_of_a_stream_are_timed_from_one_to_the_next(mode, make_kit, value, clock):
    """Of three that say something there are two intervals, each counted with their mean; the empty one is none."""
    script = ["", Pause(1.0), "one", Pause(2.0), "two", Pause(4.0), Last("three", Usage(7, 5))]
    drive(make_kit(), Call("hi"), ScriptedBackend(default=script, sleep=clock.sleep), mode)
    assert value("llmkit_time_per_output_chunk_seconds_count", **WHO) == 2
    assert value("llmkit_time_per_output_chunk_seconds_sum", **WHO) == pytest.approx(6.0)
    assert value("llmkit_time_per_output_chunk_seconds_bucket", **WHO, le="2.56") == 0


@pytest.mark.parametrize("script", [["one"], ["one", "two", Failure("server")]], ids=["one", "broken off"])
def test_what_has_no_intervals(script, make_kit, value):
    """A single chunk, and a stream that broke off: it may have been a stall that broke it."""
    with suppress(Failure):
        list(make_kit().stream(Call("hi"), ScriptedBackend(default=script)))
    assert value("llmkit_time_to_first_token_seconds_count", **WHO) == 1
    assert value("llmkit_time_per_output_chunk_seconds_count", **WHO) is None


def test_the_consumers_pauses_are_not_the_providers(make_kit, value, slow, clock):
    """A reader who takes ten seconds makes no token slower."""
    for _ in make_kit().stream(Call("hi"), slow):
        clock.advance(10.0)
    assert value("llmkit_attempt_duration_seconds_sum", **WHO, outcome="ok") == pytest.approx(3.0)
    assert value("llmkit_time_per_output_token_seconds_sum", **WHO) == pytest.approx(0.5)
    assert value("llmkit_request_duration_seconds_sum", **WHO, outcome="ok") > 10.0


@pytest.mark.parametrize("mode", MODES)
def test_cached_and_reasoning_tokens_have_a_direction_of_their_own(mode, make_kit, value):
    """They are parts of input and output, and not there where there were none."""
    backend = ScriptedBackend(default=[Last("x", Usage(10, 8, cached_tokens=4, reasoning_tokens=6))])
    drive(make_kit(), Call("hi"), backend, mode)
    tokens = {way: value("llmkit_request_tokens_total", **WHO, direction=way) for way in ("input", "output", "cached")}
    assert tokens == {"input": 10, "output": 8, "cached": 4}
    assert value("llmkit_request_tokens_total", **WHO, direction="reasoning") == 6


@pytest.mark.parametrize("mode", MODES)
def test_only_what_a_provider_failed_is_an_error_of_its(mode, make_kit, registry, plugin):
    """Not an answer, not a target that a plugin refused, not a caller who left."""

    def refuse(call, attempt):
        if call.user == "nobody":
            raise Refused("no")

    kit = make_kit(plugin(pre_attempt=refuse), traces=False)
    drive(kit, Call("hi"), ScriptedBackend(), mode)
    with pytest.raises(Refused):
        drive(kit, Call("hi", user="nobody"), ScriptedBackend(), mode)
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        drive(kit, Call("hi"), ScriptedBackend(default=["x", KeyboardInterrupt()]), mode)
    assert "llmkit_provider_errors_total{" not in generate_latest(registry).decode()


def test_an_unknown_price_is_no_zero(make_kit, value):
    """Where nobody knows the price there is no cost, but a count of answers without one."""
    drive(make_kit(targets=[Target("x", "nobody", "nothing")]), Call("hi"), ScriptedBackend(), "run")
    assert value("llmkit_request_cost_total", provider="nobody", model="nothing") is None
    assert value("llmkit_request_cost_unknown_total", provider="nobody", model="nothing") == 1


def test_a_listed_price_counts_where_the_target_has_none(make_kit, value):
    """It is looked up by who reads: that may take a tenth of a millisecond."""
    kit = make_kit(targets=[Target("x", "openai", "gpt-4o-mini")], traces=False)
    prices = kit.plugins["observability"].recorder.prices
    with patch.object(prices, "listed", wraps=prices.listed) as looked_up:
        drive(kit, Call("hi"), ScriptedBackend(), "run")
        looked_up.assert_not_called()
        cost = value("llmkit_request_cost_total", provider="openai", model="gpt-4o-mini")
    assert cost == pytest.approx((5 * 0.15 + 3 * 0.60) / 1e6)


STORIES = {
    "ended without usage": (["x", "y"], 2, 1),
    "left half-way": (["x", "y"], 1, 1),
    "broke off": (["x", Failure("server")], 2, 1),
    "never began": ([Failure("bad_request")], 2, None),
}


@pytest.mark.parametrize(("script", "read", "unknown"), STORIES.values(), ids=STORIES)
def test_what_was_answered_without_usage_is_no_zero(script, read, unknown, make_kit, value):
    """A stream that said something cost something, whoever left it; nobody knows how much."""
    stream = make_kit().stream(Call("hi"), ScriptedBackend(default=script))
    with suppress(Failure):
        for _ in range(read):
            next(stream, None)
        next(stream, None) if read == 2 else stream.close()
    assert value("llmkit_request_cost_total", **WHO) is None
    assert value("llmkit_request_cost_unknown_total", **WHO) == unknown


def test_a_bug_of_a_plugin_is_counted(clock, registry, value, plugin, caplog):
    """By where it is; nobody else notices."""
    broken = plugin("guard", pre_request=lambda call: 1 / 0)
    kit = LLMKit([ObservabilityPlugin(registry), broken], [Target("a", "p1", "m1")], clock=clock)
    for _ in range(3):
        assert kit.call(Call("hi"), ScriptedBackend()).raw == "abc"
    assert value("llmkit_plugin_errors_total", where="guard.llmkit_pre_request") == 3


class OpenForAFramework(CircuitOpen, OSError):
    """As integrations raise it: an error of their framework's too."""


REFUSALS = [
    (RateLimited("per user", "u", 1.0), "rate_limited"),
    (CircuitOpen("a", 1.0), "circuit_open"),
    (OpenForAFramework("a", 1.0), "circuit_open"),
    (NoTarget({}), "no_target"),
    (Refused("no"), "other"),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("refusal", "reason"), REFUSALS, ids=[reason for _, reason in REFUSALS])
def test_a_refused_request_is_counted_by_reason(mode, refusal, reason, make_kit, value, plugin):
    """Who refused is told by the kind of refusal."""

    def refuse(call):
        raise refusal

    with pytest.raises(type(refusal)):
        drive(make_kit(plugin(pre_request=refuse)), Call("hi"), ScriptedBackend(), mode)
    assert value("llmkit_refusals_total", reason=reason) == 1
    assert value("llmkit_request_active") == 0
    assert value("llmkit_followers_total") is None


@pytest.mark.parametrize("mode", MODES)
def test_an_attempt_is_counted_by_its_end(mode, make_kit, value):
    """A failover is a failed attempt here, a good one there, and one good request."""
    backend = ScriptedBackend({"a": [Failure("overloaded")]})
    drive(make_kit(), Call("hi"), backend, mode)
    assert value("llmkit_provider_errors_total", **WHO, error_type="overloaded") == 1
    assert value("llmkit_attempt_duration_seconds_count", **WHO, outcome="error") == 1
    assert value("llmkit_attempt_duration_seconds_count", provider="p2", model="m2", outcome="ok") == 1
    assert value("llmkit_request_duration_seconds_count", provider="p2", model="m2", outcome="ok") == 1


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_of_a_plugin_saves_an_upstream_call(mode, make_kit, value, plugin):
    """Nobody was asked: one call saved, no attempt, no tokens."""
    give = plugin(pre_request=lambda call: Answer(Response("kept"), ["kept"]))
    drive(make_kit(give), Call("hi", model="gpt"), ScriptedBackend(), mode)
    assert value("llmkit_upstream_calls_saved_total", by="answer") == 1
    assert value("llmkit_request_duration_seconds_count", provider="none", model="gpt", outcome="ok") == 1
    assert value("llmkit_followers_total") is None


@pytest.mark.parametrize("streamed", [False, True])
async def test_followers_save_upstream_calls(streamed, make_kit, value, plugin):
    """Of five callers of one upstream four followed and cost nothing."""
    kit, backend = make_kit(plugin(pre_request=lambda call: Share("all"))), ScriptedBackend()

    async def ask() -> None:
        if streamed:
            async for _ in kit.astream(Call("hi"), backend):
                pass
        else:
            await kit.acall(Call("hi"), backend)

    await asyncio.gather(*[ask() for _ in range(5)])
    assert value("llmkit_followers_total") == value("llmkit_upstream_calls_saved_total", by="sharing") == 4
    assert value("llmkit_request_tokens_total", **WHO, direction="input") == 5
    assert value("llmkit_request_cost_total", **WHO) == pytest.approx((5 * 1.0 + 3 * 2.0) / 1e6)


async def test_a_follower_whose_upstream_failed_saved_nothing(make_kit, value, plugin):
    """It followed all the same."""
    kit = make_kit(plugin(pre_request=lambda call: Share("all")))
    backend = ScriptedBackend(default=[Failure("bad_request")])
    await asyncio.gather(*[kit.acall(Call("hi"), backend) for _ in range(3)], return_exceptions=True)
    assert value("llmkit_followers_total") == 2
    assert value("llmkit_upstream_calls_saved_total", by="sharing") is None
    assert value("llmkit_provider_errors_total", **WHO, error_type="bad_request") == 1


@pytest.mark.parametrize(("action", "seconds"), [("refused", math.inf), ("waited", 2.0), ("passed", 1.0)])
def test_a_limit_is_counted_by_what_became_of_the_call(action, seconds, make_kit, value):
    """Waits have their seconds; a refusal has none."""
    kit = make_kit()
    kit.events.publish(LimitReached(Call(), "per user", action, seconds))
    assert value("llmkit_limit_reached_total", limit="per user", action=action) == 1
    assert value("llmkit_limit_wait_seconds_sum", limit="per user") == (2.0 if action == "waited" else None)


def test_a_circuit_is_in_one_state(make_kit, value):
    """The state it is in is 1, the others are 0; what it went into is counted."""
    kit = make_kit()
    for before, after in [("closed", "open"), ("open", "half_open"), ("half_open", "open")]:
        kit.events.publish(CircuitChanged("a", before, after, "why"))
    states = {
        state: value("llmkit_circuit_state", target="a", state=state) for state in ("closed", "open", "half_open")
    }
    assert states == {"closed": 0, "open": 1, "half_open": 0}
    assert value("llmkit_circuit_transitions_total", target="a", state="open") == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_prediction_is_held_against_what_came(mode, make_kit, value, slow, clock, plugin):
    """Predicted two seconds, it took three: one and a half times as long."""

    def route(call, targets):
        kit.events.publish(Routed(call, targets[0], "fastest", 2.0))

    kit = make_kit(plugin(route=route))
    drive(kit, Call("hi"), slow, mode)
    assert value("llmkit_route_decisions_total", **WHO, reason="fastest") == 1
    assert value("llmkit_route_latency_ratio_sum", **WHO) == pytest.approx(1.5)


def test_a_failed_attempt_proves_no_prediction_wrong(make_kit, value, clock, plugin):
    """Neither does one at a target nobody predicted for."""

    def route(call, targets):
        if not call.attempts:
            kit.events.publish(Routed(call, targets[0], "fastest", 2.0))

    kit = make_kit(plugin(route=route))
    drive(kit, Call("hi"), ScriptedBackend({"a": [Failure()]}), "run")
    assert value("llmkit_route_latency_ratio_count", **WHO) is None
    assert value("llmkit_route_latency_ratio_count", provider="p2", model="m2") is None


def test_what_nobody_reads_is_bounded(make_kit, value):
    """It is added up from time to time, and nothing is lost by that."""
    kit = make_kit(traces=False)
    for _ in range(NOTES):
        kit.call(Call("hi"), ScriptedBackend())
    metrics = kit.plugins["observability"].recorder.metrics
    assert all(len(child.noted) <= NOTES + 1 for family in metrics for _, child in family.children())
    assert value("llmkit_request_duration_seconds_count", **WHO, outcome="ok") == NOTES


def test_names_that_users_choose_are_bounded(make_kit, value, plugin):
    """A model asked for is a label only until there are too many of them."""

    def refuse(call):
        raise Refused("no")

    kit = make_kit(plugin(pre_request=refuse), max_label_sets=3)
    for n in range(20):
        with pytest.raises(Refused):
            kit.call(Call("hi", model=f"model-{n}"), ScriptedBackend())
    count = "llmkit_request_duration_seconds_count"
    assert value(count, provider="none", model="model-0", outcome="refused") == 1
    assert value(count, provider=OVERFLOW, model=OVERFLOW, outcome="refused") == 17


@pytest.mark.parametrize(("asked", "label"), [("gpt-\ud83d", "gpt-\\ud83d"), (7, "7")])
def test_names_that_cannot_be_written(make_kit, registry, value, plugin, asked, label):
    """They are replaced: one call for half of an emoji, or for no text, does not spoil ``/metrics`` for all others."""

    def refuse(call):
        raise Refused("no")

    kit = make_kit(plugin(pre_request=refuse))
    for _ in range(2):
        with pytest.raises(Refused):
            kit.call(Call("hi", model=asked), ScriptedBackend())
    assert value("llmkit_request_duration_seconds_count", provider="none", model=label, outcome="refused") == 2
    assert generate_latest(registry)


@pytest.mark.parametrize("mode", MODES)
def test_hooks_are_timed_without_their_waits(mode, make_kit, value, plugin):
    """Every hook of every plugin is timed in one call of so many; what it waited for is nobody's overhead."""

    def wait(call):
        yield Wait(1000.0)

    drive(make_kit(plugin("patient", pre_request=wait), time_hooks_every=1), Call("hi"), ScriptedBackend(), mode)
    timed = {"plugin": "patient", "hook": "llmkit_pre_request"}
    assert value("llmkit_hook_duration_seconds_count", **timed) == 1
    assert value("llmkit_hook_duration_seconds_sum", **timed) < 1.0
    own = {"plugin": "observability", "hook": "llmkit_post_attempt"}
    assert value("llmkit_hook_duration_seconds_count", **own) == 1
