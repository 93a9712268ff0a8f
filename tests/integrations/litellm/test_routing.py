"""The plugins decide among what LiteLLM offers: its filters stay, its own strategy proposes, no refusal cools anything
down."""

from __future__ import annotations

import asyncio
import gc

import litellm
import pytest

from llmkit_plugins import CircuitOpen, NoTarget, Refused, Wait
from llmkit_plugins.testing.fake_provider import Fault


@pytest.fixture(params=["sync", "async stream"])
def mode(request):
    """LiteLLM's two ways to select; whole and streamed are the same to it."""
    return request.param


@pytest.fixture
def alphabetical(plugin):
    """No preference, in this module."""
    return plugin("indifferent", route=lambda call, targets: targets)


def prefer(name):
    """A route hook that puts one target first."""
    return lambda call, targets: sorted(targets, key=lambda target: target.name != name)


def without(name):
    """A route hook that leaves one target out."""
    return lambda call, targets: [target for target in targets if target.name != name]


@pytest.fixture
def tried(recorder):
    """The names of the targets that were tried, in order."""
    return lambda: [attempt.target.name for attempt in recorder.attempts]


@pytest.fixture
def offered(kit, plugin):
    """What LiteLLM offered each time."""
    seen: list[list[str]] = []
    kit.register(plugin("spy", route=lambda call, targets: seen.append([target.name for target in targets])), at=0)
    return seen


@pytest.mark.parametrize("name", ["a", "b"])
async def test_a_plugins_order_wins(routed, mode, ask, kit, plugin, tried, name):
    """The target that the plugins put first is the one that is asked."""
    kit.register(plugin(route=prefer(name)))
    for _ in range(4):
        await ask(mode, routed)
    assert tried() == [name] * 4


async def test_without_an_opinion_litellms_strategy_decides(enter, mode, ask, deployment, first, second, tried):
    """Where no plugin reorders, the weights of LiteLLM's shuffle count."""
    models = [deployment("a", first, weight=0), deployment("b", second, weight=1)]
    entrance = enter("router", model_list=models)
    for _ in range(8):
        await ask(mode, entrance)
    assert tried() == ["b"] * 8


async def test_where_plugins_only_drop_litellm_chooses_among_the_rest(
    enter, mode, ask, deployment, provider, kit, plugin, tried
):
    """A target that is left out hands its share to the others by their weights, not to the next in the list."""
    models = [deployment(name, provider(), weight=weight) for name, weight in (("a", 1), ("b", 0), ("c", 1))]
    kit.register(plugin(route=without("a")))
    entrance = enter("installed", model_list=models)
    for _ in range(6):
        await ask(mode, entrance)
    assert tried() == ["c"] * 6


@pytest.mark.parametrize("strategy", ["least-busy", "usage-based-routing-v2", "latency-based-routing"])
async def test_other_strategies_propose_too(enter, mode, ask, strategy, tried, second):
    """A Router with another strategy of LiteLLM's works as before, and fails over."""
    second.fail_with(Fault("server_error"))
    entrance = enter("router", routing_strategy=strategy)
    assert await ask(mode, entrance) == "one two three"
    assert tried()[-1] == "a"


async def test_what_was_tried_waits_until_nothing_else_is_left(enter, mode, ask, provider, deployment, tried):
    """Retries and fallback groups go on with deployments that this call has not tried."""
    down = [provider(faults=[Fault("server_error")]) for _ in range(4)]
    models = [deployment(f"d{n}", one, group="one" if n < 2 else "two") for n, one in enumerate(down)]
    entrance = enter("router", model_list=models, num_retries=1, fallbacks=[{"one": ["two"]}])
    with pytest.raises(litellm.InternalServerError):
        await ask(mode, entrance, model="one")
    assert len(tried()) == 4
    assert set(tried()[:2]) == {"d0", "d1"}
    assert set(tried()[2:]) == {"d2", "d3"}


async def test_a_single_deployment_is_retried(enter, ask, deployment, first, tried):
    """Where LiteLLM asks for more tries than there are targets, they are tried again."""
    first.fail_with(Fault("server_error", on=[1]))
    entrance = enter("router", model_list=[deployment("a", first)], num_retries=1)
    assert await ask("async", entrance) == "one two three"
    assert tried() == ["a"] * 2


async def test_cooled_down_deployments_are_not_offered(enter, mode, ask, offered, first):
    """What LiteLLM has cooled down, the plugins do not see."""
    first.fail_with(Fault("rate_limit", on=[1]))
    entrance = enter("installed", disable_cooldowns=False, num_retries=3)
    while first.stats.requests == 0:
        await ask(mode, entrance)
    offered.clear()
    await ask(mode, entrance)
    assert offered == [["b"]]


async def test_a_refusal_cools_nothing_down(enter, mode, ask, kit, plugin, offered):
    """A call that was refused everywhere leaves every deployment as healthy as it was."""

    def refuse(call, attempt):
        raise CircuitOpen(attempt.target.name, 5.0)

    refusing = plugin(pre_attempt=refuse)
    kit.register(refusing)
    entrance = enter("router", disable_cooldowns=False, allowed_fails=0)
    for _ in range(3):
        with pytest.raises(litellm.ServiceUnavailableError) as raised:
            await ask(mode, entrance)
        assert isinstance(raised.value, NoTarget)
        assert set(raised.value.reasons) == {"a", "b"}
    kit.unregister(refusing)
    offered.clear()
    await ask(mode, entrance)
    assert sorted(offered[0]) == ["a", "b"]


async def test_tags(enter, ask, deployment, first, second, offered):
    """LiteLLM's tags still narrow what is offered (in its async path, as without a kit)."""
    models = [deployment("a", first, tags=["paid"]), deployment("b", second, tags=["free"])]
    entrance = enter("router", model_list=models, enable_tag_filtering=True)
    await ask("async", entrance, metadata={"tags": ["free"]})
    assert offered == [["b"]]


async def test_pre_call_checks(enter, mode, ask, deployment, first, second, offered):
    """A deployment whose context window is too small is not offered."""
    models = [deployment("a", first, model="openai/tiny"), deployment("b", second)]
    models[0]["model_info"]["max_input_tokens"] = 1
    entrance = enter("router", model_list=models, enable_pre_call_checks=True)
    await ask(mode, entrance)
    assert offered == [["b"]]


async def test_order(enter, mode, ask, deployment, first, second, offered):
    """Deployments of a later order are offered when those of the first have failed."""
    first.fail_with(Fault("server_error"))
    models = [deployment("a", first, order=1), deployment("b", second, order=2)]
    entrance = enter("router", model_list=models, num_retries=0)
    assert await ask(mode, entrance) == "four five"
    assert offered == [["a"], ["b"]]


async def test_weighted_failover(enter, mode, ask, first, kit, plugin, tried):
    """LiteLLM's own failover inside a group still happens where it is enabled."""
    first.fail_with(Fault("server_error"))
    kit.register(plugin(route=prefer("a")))
    entrance = enter("router", num_retries=0, enable_weighted_failover=True)
    assert await ask(mode, entrance) == "four five"
    assert tried() == ["a", "b"]


async def test_a_deployment_by_its_id(routed, mode, ask, heard, tried):
    """A call that names its deployment is not routed, but its attempt is heard."""
    assert await ask(mode, routed, model="b") == "four five"
    assert heard() == {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1}
    assert tried() == ["b"]


async def test_a_deployment_by_its_id_that_is_refused(routed, mode, ask, heard, kit, plugin, second):
    """Where the deployment that is named is refused, nobody is asked and the caller gets LiteLLM's error."""

    def refuse(call, attempt):
        raise CircuitOpen(attempt.target.name, 5.0)

    kit.register(plugin(pre_attempt=refuse))
    with pytest.raises(litellm.ServiceUnavailableError) as raised:
        await ask(mode, routed, model="b", num_retries=0)
    assert isinstance(raised.value, CircuitOpen)
    assert second.stats.requests == 0
    assert heard() == {"request": 1, "attempt": 1, "attempt refused": 1, "request refused": 1}


async def test_nothing_left_after_a_failure(enter, mode, ask, heard, kit, plugin, first, recorder):
    """Where one target fails and the other is refused, the caller gets what the provider said."""

    def refuse(call, attempt):
        if attempt.target.name == "b":
            raise CircuitOpen("b", 5.0)

    first.fail_with(Fault("overloaded"))
    kit.register(plugin(pre_attempt=refuse, route=prefer("a")))
    entrance = enter("router", num_retries=1)
    with pytest.raises(litellm.ServiceUnavailableError) as raised:
        await ask(mode, entrance)
    assert not isinstance(raised.value, Refused)
    assert heard() == {"request": 1, "attempt": 2, "attempt error": 1, "attempt refused": 1, "request error": 1}


async def test_a_route_hook_that_refuses_the_call(routed, mode, ask, heard, kit, plugin, first, second):
    """A refusal of the call while it is routed reaches the caller as LiteLLM's error."""

    def refuse(call, targets):
        raise Refused("not at this hour", 60.0)

    kit.register(plugin(route=refuse))
    with pytest.raises(litellm.ServiceUnavailableError, match="not at this hour") as raised:
        await ask(mode, routed)
    assert raised.value.headers == {"retry-after": "60"}
    assert heard() == {"request": 1, "request refused": 1}
    assert first.stats.requests == second.stats.requests == 0


async def test_who_left_everybody_out(routed, mode, ask, kit, plugin):
    """Where no target is left, the error says of each which plugin left it out."""
    kit.register(plugin(route=lambda call, targets: [t for t in targets if t.name != "a"]), "no_a")
    kit.register(plugin(route=lambda call, targets: [t for t in targets if t.name != "b"]), "no_b")
    with pytest.raises(litellm.ServiceUnavailableError) as raised:
        await ask(mode, routed)
    assert isinstance(raised.value, NoTarget)
    told = {"a": "dropped by no_a.llmkit_route", "b": "dropped by no_b.llmkit_route"}
    assert raised.value.reasons == told


async def test_fallbacks_after_a_refusal(enter, mode, ask, deployment, first, second, kit, plugin, tried):
    """Where every target of a group is refused, LiteLLM's fallback groups are still tried."""
    kit.register(plugin(route=lambda call, targets: [t for t in targets if t.metadata["model_group"] != "one"]))
    models = [deployment("a", first, group="one"), deployment("b", second, group="two")]
    entrance = enter("router", model_list=models, fallbacks=[{"one": ["two"]}])
    assert await ask(mode, entrance, model="one") == "four five"
    assert tried() == ["b"]


async def test_a_hook_that_waits(routed, mode, ask, kit, plugin, heard):
    """A plugin may let an attempt wait, in this thread or awaiting."""

    def wait(call, attempt):
        yield Wait(0.001)

    kit.register(plugin(pre_attempt=wait))
    await ask(mode, routed)
    assert heard() == {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1}


# LiteLLM 1.100 makes the coroutine that sends before it checks
@pytest.mark.filterwarnings("ignore:coroutine 'acompletion' was never awaited:RuntimeWarning")
async def test_a_check_of_litellms_own_between_choice_and_sending(enter, mode, ask, heard, recorder, first):
    """An attempt that LiteLLM's own checks keep from being sent ends as refused, and was never started."""

    class Check(litellm.integrations.custom_logger.CustomLogger):
        def pre_call_check(self, deployment):
            raise litellm.RateLimitError("over the limit", "openai", "m", num_retries=0)

        async def async_pre_call_check(self, deployment, parent_otel_span=None):
            self.pre_call_check(deployment)

    litellm.callbacks.append(Check())
    entrance = enter("router", num_retries=0)
    with pytest.raises(litellm.RateLimitError, match="over the limit"):
        await ask(mode, entrance)
    assert heard() == {"request": 1, "attempt": 1, "attempt refused": 1, "request error": 1}
    assert recorder.attempts[0].started is None
    assert first.stats.requests == 0
    await asyncio.sleep(0.05)  # LiteLLM still looks at the error
    gc.collect()


async def test_a_routing_strategy_of_the_users(enter, mode, ask, heard, tried, deployment, second):
    """Where the user has a strategy of his own, it selects, and the plugins hear of the attempts."""

    class Always:
        def get_available_deployment(self, **request):
            return deployment("b", second)

        async def async_get_available_deployment(self, **request):
            return deployment("b", second)

    entrance = enter("installed")
    register = getattr(entrance.router, "register_plugin", None) or entrance.router.set_custom_routing_strategy
    register(Always())
    assert await ask(mode, entrance) == "four five"
    assert heard() == {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1}
    assert tried() == ["b"]


async def test_two_routers_have_targets_of_their_own(kit, ask, deployment, first, second, settings, tried):
    """Deployments of one id in two Routers are two targets."""
    from llmkit_litellm import LLMKitRouter

    for provider, model in ((first, "gpt-4o"), (second, "gpt-4o-mini")):
        router = LLMKitRouter(model_list=[deployment("x", provider, model=f"openai/{model}")], kit=kit, **settings)
        await ask("async", router, model="group", messages=[{"role": "user", "content": "hi"}])
    assert tried() == ["x", "x"]
