"""The rate limiter in a kit: who is charged what, when, and what becomes of a call over a limit."""

from __future__ import annotations

import asyncio
import gc
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from llmkit_plugins import Call, ConfigError, LLMKit, NoTarget, RateLimited, Refused, Share, Target, Usage, hookimpl
from llmkit_plugins.events import LimitReached
from llmkit_plugins.plugins.circuit_breaker import CircuitBreakerPlugin
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiterConfig, RateLimiterPlugin
from llmkit_plugins.plugins.router import RouterPlugin
from llmkit_plugins.testing import MODES, Failure, Last, ManualClock, Pause, PluginConformance, ScriptedBackend, drive

A, B = (Target(name, f"provider-{name}", "model", input_price=1e6, output_price=1e6) for name in "ab")
TEN_TOKENS = [Last("x", usage=Usage(7, 3))]


class TestRejecting(PluginConformance):
    """It keeps the laws where it refuses."""

    def make_plugin(self) -> RateLimiterPlugin:
        return RateLimiterPlugin(limits=[Limit(requests="5/s", tokens="1000/s", per="user"), Limit(concurrency=3)])


class TestWaiting(PluginConformance):
    """It keeps the laws where it waits."""

    def make_plugin(self) -> RateLimiterPlugin:
        limits = [Limit(requests="2000/s", per="provider", burst=1), Limit(concurrency=50, per="target")]
        return RateLimiterPlugin(limits=limits, on_limit="wait", max_wait_seconds=20)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def kit_of(clock: ManualClock, *limits: Limit, targets: tuple[Target, ...] = (A,), **settings: Any) -> LLMKit:
    return LLMKit([RateLimiterPlugin(limits=limits, **settings)], targets, clock=clock)


def send(kit: LLMKit, mode: str, backend: ScriptedBackend | None = None, **call: Any) -> Any:
    return drive(kit, Call("hi", **call), backend or ScriptedBackend(default=TEN_TOKENS), mode)


def told(kit: LLMKit) -> list[LimitReached]:
    events: list[LimitReached] = []
    kit.events.subscribe(LimitReached, events.append)
    return events


def test_kits_of_one_clock_share_a_limiter_and_its_limits(clock: ManualClock) -> None:
    """Registered in a second kit, a plugin does not forget what calls of the first have used."""
    plugin = RateLimiterPlugin(limits=[Limit(requests="2/h", per="user")])
    first, second = (LLMKit([plugin], (A,), clock=clock) for _ in range(2))
    for kit in (first, second):
        send(kit, "run", user="u1")
    with pytest.raises(RateLimited):
        send(first, "run", user="u1")


def test_the_fourth_request_of_a_user_is_refused_with_the_wait(clock: ManualClock, mode: str) -> None:
    """Three a minute: the fourth is told which limit, for whom and the exact seconds; another user is not concerned."""
    kit = kit_of(clock, Limit(requests="3/min", per=("user",), name="per user"))
    events = told(kit)
    for _ in range(3):
        send(kit, mode, user="ann")
    with pytest.raises(RateLimited) as refused:
        send(kit, mode, user="ann")
    assert (refused.value.limit, refused.value.key) == ("per user", "ann")
    assert refused.value.retry_after == pytest.approx(20.0)
    send(kit, mode, user="bob")
    assert [(e.limit, e.action) for e in events] == [("per user", "refused")]
    clock.advance(20.0)
    send(kit, mode, user="ann")


@pytest.mark.parametrize("asked", [-(10**12), -1, float("nan"), 10**400], ids=["deep", "-1", "nan", "huge"])
def test_a_bound_of_nonsense_locks_nobody_out(clock: ManualClock, mode: str, asked: Any) -> None:
    """A ``max_tokens`` that no provider would take neither fills a limit nor leaves a debt when it has failed."""
    kit = kit_of(clock, Limit(tokens="1000/min", per="provider"))
    with pytest.raises(Failure):
        send(kit, mode, ScriptedBackend({"a": [Failure("bad_request")]}), params={"max_tokens": asked})
    send(kit, mode)
    assert not kit.bugs


def test_a_permit_comes_back_whatever_usage_is(clock: ManualClock, mode: str) -> None:
    """A backend that writes what is no usage has a bug, and the next call its permit."""
    kit = kit_of(clock, Limit(concurrency=1, tokens="1000/min", per="provider"))
    nonsense: Any = Usage("many", "more")  # type: ignore[arg-type]
    for _ in range(2):
        send(kit, mode, ScriptedBackend(default=[Last("x", usage=nonsense)]))
    assert kit.bugs == {"rate_limiter.llmkit_post_attempt": 2}


def test_the_third_waits_its_turn(clock: ManualClock, mode: str) -> None:
    """Over the limit a call waits exactly as long as it has to, and then goes through."""
    kit = kit_of(clock, Limit(requests="1/s", per="user", burst=2), on_limit="wait")
    events = told(kit)
    for _ in range(3):
        send(kit, mode, user="ann")
    assert clock() == pytest.approx(1.0, abs=0.01)
    assert [(e.action, round(e.seconds, 2)) for e in events] == [("waited", 1.0)]


def test_who_would_wait_too_long_is_refused_at_once(clock: ManualClock, mode: str) -> None:
    """Neither longer than max_wait_seconds nor past the call's deadline, and without waiting for it."""
    kit = kit_of(clock, Limit(requests="1/min", per="user"), on_limit="wait", max_wait_seconds=50)
    send(kit, mode, user="ann")
    with pytest.raises(RateLimited):
        send(kit, mode, user="ann")
    clock.advance(20.0)
    with pytest.raises(Refused):
        send(kit, mode, user="ann", deadline=clock() + 30.0)
    assert clock() == 20.0


def test_shadow_only_counts(clock: ManualClock, mode: str) -> None:
    """Calls go through, and whoever listens hears that they would not have."""
    kit = kit_of(clock, Limit(requests="1/min", per="user"), on_limit="shadow")
    events = told(kit)
    for _ in range(3):
        send(kit, mode, user="ann")
    assert [e.action for e in events] == ["passed", "passed"]


def test_tokens_are_settled_to_what_was_used(clock: ManualClock, mode: str) -> None:
    """Ten tokens an answer: of a hundred a minute ten answers fit and not one more, whatever was expected of them."""
    kit = kit_of(clock, Limit(tokens="100/min", per="user"))
    for _ in range(10):
        send(kit, mode, user="ann", params={"max_tokens": 3})
    with pytest.raises(RateLimited):
        send(kit, mode, user="ann", params={"max_tokens": 3})


def test_a_provider_that_failed_has_used_no_tokens(clock: ManualClock, mode: str) -> None:
    """Failures give the expected tokens back, to the target's limit and to the user's."""
    kit = kit_of(clock, Limit(tokens="100/min", per="user"), Limit(tokens="100/min", per="target"))
    for _ in range(30):
        with pytest.raises(Failure):
            send(kit, mode, ScriptedBackend({"a": [Failure("server")]}), user="ann")
    send(kit, mode, user="ann")


def test_a_call_that_was_refused_later_costs_nothing(clock: ManualClock, mode: str) -> None:
    """What never reached a provider gives the request back too."""

    class Refuse:
        @hookimpl
        def llmkit_pre_attempt(self) -> None:
            raise Refused("no")

    kit = kit_of(clock, Limit(requests="1/min", per="user"), Limit(requests="1/min", per="target"))
    refuse = Refuse()
    kit.register(refuse)
    for _ in range(3):
        with pytest.raises(Refused, match="no"):
            send(kit, mode, user="ann")
    kit.unregister(refuse)
    send(kit, mode, user="ann")


@pytest.mark.parametrize("leave", ["close", "forget"])
def test_an_abandoned_stream_is_charged_for_what_it_said(clock: ManualClock, leave: str) -> None:
    """Left after one chunk of four, a stream costs one token, not four: of ten a minute, seven such streams fit. The
    attempt of one that is forgotten ends after its call."""
    kit = kit_of(clock, Limit(output_tokens="10/min", per="user"))

    def leave_early() -> None:
        call = Call("hi", user="ann", params={"max_tokens": 4})
        stream: Any = kit.stream(call, ScriptedBackend(default=["a", "b", "c", Last("d")]))
        next(stream)
        if leave == "close":
            stream.close()
        else:
            cycle = [stream]
            cycle.append(cycle)
            del stream, cycle
            gc.collect()

    for _ in range(7):
        leave_early()
    with pytest.raises(RateLimited):
        leave_early()


def test_an_answer_without_usage_keeps_what_was_expected(clock: ManualClock, mode: str) -> None:
    """A provider that does not count does not make its answers free."""
    kit = kit_of(clock, Limit(output_tokens="100/min", per="user"))
    silent = ScriptedBackend(default=["x"])
    send(kit, mode, silent, user="ann", params={"max_tokens": 100})
    with pytest.raises(RateLimited):
        send(kit, mode, silent, user="ann", params={"max_tokens": 100})


def test_money(clock: ManualClock, mode: str) -> None:
    """Ten tokens cost ten dollars at these prices: thirty a day are three answers, then one in eight hours at most."""
    kit = kit_of(clock, Limit(cost="30 USD/day", per="user"))
    for _ in range(3):
        send(kit, mode, user="ann", params={"max_tokens": 3})
    with pytest.raises(RateLimited) as refused:
        send(kit, mode, user="ann", params={"max_tokens": 3})
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 8 * 3600


@pytest.mark.parametrize("on_limit", ["reject", "wait"])
def test_a_target_without_budget_is_passed_over(clock: ManualClock, mode: str, on_limit: str) -> None:
    """While another one has some, nobody is refused and nobody waits."""
    kit = kit_of(clock, Limit(requests="2/min", per="target"), targets=(A, B), on_limit=on_limit, max_wait_seconds=60)
    reached, began, backend = told(kit), clock(), ScriptedBackend(default=TEN_TOKENS)
    for _ in range(4):
        send(kit, mode, backend)
    assert backend.sent == {"a": 2, "b": 2}
    assert (clock() - began, reached) == (0.0, [])


def test_what_only_counts_routes_nobody_elsewhere(clock: ManualClock, mode: str) -> None:
    """Over a target's limit, calls go there all the same."""
    kit = kit_of(clock, Limit(requests="2/min", per="target"), targets=(A, B), on_limit="shadow")
    backend = ScriptedBackend(default=TEN_TOKENS)
    for _ in range(4):
        send(kit, mode, backend)
    assert backend.sent == {"a": 4}


def test_where_none_has_budget_the_shortest_wait_is_named(clock: ManualClock, mode: str) -> None:
    """Whichever target it is of."""
    kit = kit_of(clock, Limit(requests="2/min", per="target"), targets=(A, B))
    backend = ScriptedBackend(default=TEN_TOKENS)
    for _ in range(4):
        send(kit, mode, backend)
        clock.advance(1.0)
    with pytest.raises(Refused) as refused:
        send(kit, mode, backend)
    assert refused.value.retry_after == pytest.approx(26.0)


def test_when_none_has_budget_the_shortest_wait_is_taken(clock: ManualClock, mode: str) -> None:
    """Where calls wait, they wait for the target that is free soonest."""
    limits = (
        Limit(requests="1/20s", per="target", match={"target": "a"}),
        Limit(requests="1/10s", per="target", match={"target": "b"}),
    )
    kit = kit_of(clock, *limits, targets=(A, B), on_limit="wait")
    backend = ScriptedBackend(default=TEN_TOKENS)
    for _ in range(3):
        send(kit, mode, backend)
    assert backend.sent == {"a": 1, "b": 2}
    assert clock() == pytest.approx(10.0, abs=0.1)


def beside_an_open_circuit(clock: ManualClock, on_limit: str) -> tuple[LLMKit, ScriptedBackend]:
    """The circuit of B is open, and A, which may be asked once a second, has just been asked."""
    limiter = RateLimiterPlugin(limits=[Limit(requests="1/s", per="target")], on_limit=on_limit)
    breaker, backend = CircuitBreakerPlugin(), ScriptedBackend(default=TEN_TOKENS)
    kit = LLMKit([limiter, RouterPlugin(), breaker], [A, B], clock=clock)
    for _ in range(5):
        breaker.breaker("b").record_failure("server", 1.0)
    drive(kit, Call("hi"), backend, "run")
    return kit, backend


def test_the_only_target_that_works_is_waited_for(clock: ManualClock, mode: str) -> None:
    """That another one has room is of no use while its circuit is open: then this one's limit is like any other's."""
    kit, backend = beside_an_open_circuit(clock, "wait")
    send(kit, mode, backend)
    assert backend.sent == {"a": 2}
    assert clock() == pytest.approx(1.0)


def test_the_only_target_that_works_says_when_it_has_room(clock: ManualClock, mode: str) -> None:
    """Who is refused comes back when the limit has room again, long before the circuit of the other closes."""
    kit, backend = beside_an_open_circuit(clock, "reject")
    with pytest.raises(NoTarget) as refused:
        send(kit, mode, backend)
    assert isinstance(refused.value.reasons["a"], RateLimited)
    assert refused.value.retry_after == pytest.approx(1.0)


class ShareAll:
    """Any answer is everybody's."""

    @hookimpl
    def llmkit_pre_request(self) -> Share:
        return Share("all")


def test_a_starter_who_left_is_charged_by_what_became_of_it(clock: ManualClock) -> None:
    """He gets his tokens back where the provider has failed those who stayed, as if he had stayed himself."""
    kit = kit_of(clock, Limit(tokens="100/day", per="user"))
    kit.register(ShareAll())
    calls = [
        Call("hi", user=user, params={"max_tokens": 90}, deadline=end) for user, end in (("ann", 1.0), ("bob", 9.0))
    ]

    async def both() -> None:
        backend = ScriptedBackend({"a": [Pause(5.0), Failure("server")]})
        await asyncio.gather(*[kit.acall(call, backend) for call in calls], return_exceptions=True)

    clock.run(both())
    assert [call.outcome for call in calls] == ["error", "error"]
    assert calls[0].attempts[0].kind == "server"
    send(kit, "run", user="ann", params={"max_tokens": 90})


@pytest.mark.parametrize(("stays", "sent"), [(True, 1), (False, 0)])
def test_a_starter_who_left_before_it_was_sent(clock: ManualClock, stays: bool, sent: int) -> None:
    """It is his request where it is sent for those who stayed, and none where nobody did."""
    kit = kit_of(clock, Limit(requests="1/day", per="user"), Limit(requests="1/5s", per="target"), on_limit="wait")
    send(kit, "run", user="eve")
    kit.register(ShareAll())
    backend = ScriptedBackend(default=TEN_TOKENS)

    async def leave() -> None:
        ann, bob = [asyncio.ensure_future(kit.acall(Call("hi", user=user), backend)) for user in ("ann", "bob")]
        await asyncio.sleep(1.0)
        for task in (ann,) if stays else (ann, bob):
            task.cancel()
        await asyncio.gather(ann, bob, return_exceptions=True)

    clock.run(leave())
    assert backend.sent.get("a", 0) == sent
    with pytest.raises(RateLimited) if sent else nullcontext():
        kit.plugins["rate_limiter"].limiter.acquire(user="ann", max_wait_seconds=0)


def test_a_follower_is_a_request_of_its_user_and_no_tokens(clock: ManualClock) -> None:
    """Shared answers are charged once, to who started them; each caller has made one request."""
    kit = kit_of(clock, Limit(tokens="1000/min", per="user", name="t"), Limit(requests="1/min", per="user", name="r"))
    kit.register(ShareAll())
    limiter = kit.plugins["rate_limiter"].limiter

    async def both() -> None:
        backend = ScriptedBackend(default=TEN_TOKENS)
        await asyncio.gather(*[kit.acall(Call("hi", user=user), backend) for user in ("ann", "bob")])

    clock.run(both())
    room = {user: limiter.acquire(user=user, input_tokens=0, max_wait_seconds=0) for user in ("eve",)}
    assert room["eve"].amounts is not None
    for user in ("ann", "bob"):
        with pytest.raises(RateLimited, match="'r'"):
            limiter.request(Call("hi", user=user))


def test_a_whole_answer_that_was_left_costs_what_was_expected(clock: ManualClock) -> None:
    """Nobody knows what a provider has used of it: its user's tokens do not come back, nor do its target's."""
    kit = kit_of(clock, Limit(tokens="60/min", per="user"), Limit(tokens="60/min", per="target"), targets=(A, B))
    backend = ScriptedBackend({"a": [Pause(1.0), Last("x")]})

    async def leave() -> None:
        async with asyncio.timeout(0.5):
            await kit.acall(Call("hi", user="ann", params={"max_tokens": 50}), backend)

    with pytest.raises(TimeoutError):
        clock.run(leave())
    with pytest.raises(RateLimited, match="per user"):
        send(kit, "run", user="ann", params={"max_tokens": 50})
    send(kit, "run", backend, user="bob", params={"max_tokens": 50})
    assert backend.sent == {"a": 1, "b": 1}


def test_concurrency_comes_back_from_the_collector(clock: ManualClock) -> None:
    """A stream that is left to the garbage collector is told of late, its attempt after its call has ended: the
    caller's permit comes back all the same."""
    kit = kit_of(clock, Limit(concurrency=1, per="user"))
    stream: Any = kit.stream(Call("hi", user="u1"), ScriptedBackend())
    next(stream)
    cycle = [stream]
    cycle.append(cycle)
    del stream, cycle
    gc.collect()
    assert send(kit, "run", user="u1")


def test_concurrency_comes_back(clock: ManualClock, mode: str) -> None:
    """One at a time, and after each end, good or bad, there is room again."""
    kit = kit_of(clock, Limit(concurrency=1, per="target"), Limit(concurrency=1, per="user"))
    for backend in (None, ScriptedBackend({"a": [Failure("server")]}), None):
        with suppress(Failure):
            send(kit, mode, backend, user="ann")
    stream = kit.stream(Call("hi", user="ann"), ScriptedBackend())
    next(stream)
    with pytest.raises(RateLimited):
        send(kit, mode, user="ann")
    stream.close()
    send(kit, mode, user="ann")


def test_a_provider_that_says_stop_is_kept_to(clock: ManualClock, mode: str) -> None:
    """After a 429 with Retry-After the target is not asked again before that."""
    kit = kit_of(clock)
    limited = ScriptedBackend({"a": [Failure("rate_limit", retry_after=7.0)]})
    with pytest.raises(Failure):
        send(kit, mode, limited)
    with pytest.raises(RateLimited) as refused:
        send(kit, mode)
    assert refused.value.retry_after == pytest.approx(7.0)
    clock.advance(7.0)
    send(kit, mode)


def test_a_caller_that_cannot_wait_is_told_how_long(clock: ManualClock) -> None:
    """In a callback nobody can wait: the refusal names the whole wait."""
    kit = kit_of(clock, Limit(requests="1/min", per="user"), on_limit="wait", max_wait_seconds=100)
    kit.begin(Call("hi", user="ann"), A).finish()
    with pytest.raises(RateLimited) as refused:
        kit.begin(Call("hi", user="ann"), A)
    assert refused.value.retry_after == pytest.approx(60.0)


def test_settings_say_what_would_be_right() -> None:
    """Mistakes in limits are named by their place in the list, all of them at once."""
    with pytest.raises(ConfigError, match=r"limits\[1\]\.requests: .*3 per fortnight.*100/s"):
        RateLimiterConfig(limits=[{"requests": "1/s"}, {"requests": "3 per fortnight"}])
    with pytest.raises(ConfigError, match=r"limits\[0\]\.request: .*did you mean requests"):
        RateLimiterConfig(limits=[{"request": "1/s"}])
    with pytest.raises(ConfigError, match=r"(?s)limits\[0\]\.request: .*limits\[2\]\.per: 'usr' is no key"):
        RateLimiterConfig(limits=[{"request": "1/s"}, {"requests": "1/s"}, {"requests": "1/s", "per": "usr"}])
