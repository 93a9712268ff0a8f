"""What we assume of LiteLLM, one test for each assumption: an upgrade that breaks one fails here first, and says
which."""

from __future__ import annotations

import asyncio
import inspect
import sys
from contextvars import ContextVar
from datetime import datetime
from types import SimpleNamespace

import litellm
import pytest
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper
from llmkit_litellm import LLMKitRouter, compat

from llmkit_plugins import LLMKit
from llmkit_plugins.testing.fake_provider import Fault

PROMPT = [{"role": "user", "content": "hi there"}]


@pytest.fixture
def router(deployment, first, second, settings):
    """A plain Router."""
    return litellm.Router(model_list=[deployment("a", first), deployment("b", second)], **settings)


@pytest.fixture
def stream(first):
    """A stream that has been opened."""
    return litellm.completion("openai/gpt-4o-mini", PROMPT, api_base=first.url, api_key="k", stream=True)


def test_the_core_is_what_routes(router, monkeypatch):
    """``core`` is the object on which a Router's methods run."""
    selves = []
    original = litellm.Router._get_routing_context

    def spy(self, *args, **kwargs):
        selves.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(litellm.Router, "_get_routing_context", spy)
    router.completion("group", PROMPT)
    assert selves[0] is compat.core(router)
    assert compat.core(selves[0]) is selves[0]


PUBLIC = ["completion", "acompletion", "text_completion", "atext_completion", "embedding", "aembedding"]
PRIVATE = [compat.ROUTING_CONTEXT, compat.RESPONSES, compat.ARESPONSES]
OVERRIDDEN = dict.fromkeys(PUBLIC, "llmkit_litellm.router") | dict.fromkeys(PRIVATE, "llmkit_litellm.compat")


@pytest.mark.parametrize(("name", "module"), OVERRIDDEN.items())
def test_a_subclass_overrides(kit, deployment, first, name, module):
    """What ``LLMKitRouter`` overrides is what a Router calls."""
    router = LLMKitRouter(model_list=[deployment("a", first)], kit=kit)
    assert getattr(compat.core(router), name).__func__.__module__ == module


def test_our_names_for_them_are_ours():
    """A Router has no methods by the names that ``OpenRouter`` gives to its private ones."""
    for name in ("steer", "send_responses", "asend_responses"):
        assert hasattr(compat.OpenRouter, name)
        assert not hasattr(litellm.Router, name)


def test_the_routing_context(router):
    """A Router asks for its strategy and selector by the model and the request."""
    names = list(inspect.signature(litellm.Router._get_routing_context).parameters)
    assert names == ["self", "model", "request_kwargs"]
    assert compat.core(router)._get_routing_context("group", {}) == ("simple-shuffle", None)


@pytest.mark.parametrize("entrance", ["router", "installed"])
async def test_what_was_selected_is_copied_where_it_is_logged(enter, ask, entrance, caplog):
    """A Router logs a copy of what its selector selected, without the key; where nobody reads that, it makes none."""
    caplog.set_level("WARNING", "LiteLLM Router")
    entered = enter(entrance)
    router = compat.core(entered.router)
    printed = router.print_deployment(chosen := {"litellm_params": {"api_key": "secret key"}})
    caplog.set_level("INFO", "LiteLLM Router")
    assert (printed, router.print_deployment(chosen)) == ({}, {"litellm_params": {"api_key": "se**********"}})
    await ask("async", entered)
    assert any("Selected deployment: {'model_name'" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_the_strategys_selector_is_asked(router, mode, monkeypatch):
    """The selector of the strategy we name is told the group, the healthy deployments and the request, by name."""
    asked = []

    class Selector:
        def get_available_deployments(self, model_group, healthy_deployments, messages, input, request_kwargs):
            asked.append((model_group, [deployment["model_info"]["id"] for deployment in healthy_deployments]))
            return healthy_deployments[1]

        async def async_get_available_deployments(self, **request):
            return self.get_available_deployments(**request)

    monkeypatch.setattr(
        litellm.Router, "_get_routing_context", lambda self, model, request_kwargs=None: (compat.STRATEGY, Selector())
    )
    answer = router.completion("group", PROMPT) if mode == "sync" else await router.acompletion("group", PROMPT)
    assert answer.choices[0].message.content == "four five"
    assert asked == [("group", ["a", "b"])]


async def test_a_weighted_failover_asks_with_the_original_function(router, first, second, monkeypatch):
    """LiteLLM asks for the strategy outside of a selection too, and then the request names what is called."""
    requests = []
    original = litellm.Router._get_routing_context

    def spy(self, model, request_kwargs=None):
        requests.append(compat.selects(request_kwargs))
        return original(self, model, request_kwargs)

    monkeypatch.setattr(litellm.Router, "_get_routing_context", spy)
    for provider in (first, second):
        provider.fail_with(Fault("server_error"))
    compat.core(router).enable_weighted_failover = True
    with pytest.raises(litellm.InternalServerError):
        await router.acompletion("group", PROMPT, num_retries=0)
    assert requests[:3] == [True, False, True]


STRATEGIES = ["simple-shuffle", "latency-based-routing", "least-busy", "usage-based-routing-v2"]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_litellms_own_pick(deployment, first, second, settings, strategy):
    """The strategy that a Router was made with can be asked, sync and async."""
    models = [deployment("a", first), deployment("b", second)]
    core = compat.core(litellm.Router(model_list=models, routing_strategy=strategy, **settings))
    request = {"messages": PROMPT, "input": None, "request_kwargs": {}}
    asked = (core, *core._get_routing_context("group"), "group", models, request)
    if strategy == compat.SHUFFLE:
        assert compat.shuffled(core, "group", models, request) in models
    else:
        for picked in (compat.pick(*asked), await compat.apick(*asked)):
            assert picked in models


def test_a_router_sends_through_the_attributes_of_the_module(router, monkeypatch):
    """``litellm.completion`` is looked up when a Router sends, and is told the id of the deployment."""
    sent = []
    original = litellm.completion

    def spy(**kwargs):
        sent.append(kwargs["model_info"]["id"])
        return original(**kwargs)

    monkeypatch.setattr(litellm, "completion", spy)
    router.completion("group", PROMPT)
    assert sent in (["a"], ["b"])


async def test_an_async_router_does_too(router, monkeypatch):
    """``litellm.acompletion`` is looked up when a Router sends, and is told the id of the deployment."""
    sent = []
    original = litellm.acompletion

    async def spy(**kwargs):
        sent.append(kwargs["model_info"]["id"])
        return await original(**kwargs)

    monkeypatch.setattr(litellm, "acompletion", spy)
    await router.acompletion("group", PROMPT)
    assert sent in (["a"], ["b"])


async def test_apart():
    """From within an event loop a function is called in another thread, with the context variables of this one."""
    variable = ContextVar("variable", default="lost")
    variable.set("kept")

    def look():
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return variable.get()

    assert compat.apart(look) == "kept"


def test_a_stream_resembles_another(stream):
    """A stream of our own class has what LiteLLM and its users read from one."""

    class Ours(CustomStreamWrapper):
        pass

    ours = compat.resembling(Ours, stream, None)
    for name in ("model", "custom_llm_provider", "logging_obj", "chunks", "_response_headers", "_hidden_params"):
        assert getattr(ours, name) == getattr(stream, name)
    assert ours._hidden_params is not stream._hidden_params


@pytest.mark.parametrize("name", ["responses", "aresponses"])
async def test_a_router_calls_the_responses_api_by_these_methods(router, name, monkeypatch):
    """They are told LiteLLM's function, by the name it is defined with."""
    called = []

    def spy(self, *args, **kwargs):
        called.append(kwargs["original_function"].__name__)

    async def aspy(self, *args, **kwargs):
        spy(self, *args, **kwargs)

    monkeypatch.setattr(litellm.Router, "_generic_api_call_with_fallbacks", spy)
    monkeypatch.setattr(litellm.Router, "_aresponses_with_streaming_fallbacks", aspy)
    answer = getattr(router, name)(model="group", input="hi")
    if answer is not None:
        await answer
    assert called == [name]


def test_the_classes_of_streams(first, stream):
    """A chat's stream and a text completion's are told apart, whatever class they were made of."""

    class TheirOwn(CustomStreamWrapper):
        """As a Router makes one for each stream."""

    asked = {"model": "openai/gpt-4o-mini", "prompt": "hi", "api_base": first.url, "api_key": "k"}
    text = litellm.text_completion(**asked, stream=True)
    assert compat.is_stream(stream)
    assert compat.is_stream(text)
    assert not compat.is_stream(litellm.ModelResponse())
    assert compat.stream_class(compat.resembling(TheirOwn, stream, None)) is CustomStreamWrapper
    assert compat.stream_class(text) is not CustomStreamWrapper


def test_closing_a_sync_stream(first):
    """A ``CustomStreamWrapper`` closes only async; its connection closes sync."""
    first.slow_down(per_token_seconds=60.0)
    stream = litellm.completion("openai/gpt-4o-mini", PROMPT, api_base=first.url, api_key="k", stream=True)
    next(stream)
    compat.close_stream(stream)
    first.wait_until(lambda stats: stats.clients_left == 1)


def test_the_end_that_the_provider_sends(stream):
    """A finish reason of the provider's is not taken for one of LiteLLM's."""
    *_, last = stream
    assert last.choices[0].finish_reason == "stop"
    assert not compat.made_up_the_end(stream)


def test_the_end_that_litellm_makes_up(first, stream):
    """A stream that broke off without a finish reason is given one, and we can tell; or it raises (since 1.109)."""
    first.fail_with(Fault("empty", after_chunks=1))
    stream = litellm.completion("openai/gpt-4o-mini", PROMPT, api_base=first.url, api_key="k", stream=True)
    try:
        *_, last = stream
    except compat.MidStreamFallbackError:
        return
    assert last.choices[0].finish_reason == "stop"
    assert compat.made_up_the_end(stream)


def test_headers(first, stream):
    """The provider's headers are read from a whole answer as from a stream."""
    whole = litellm.completion("openai/gpt-4o-mini", PROMPT, api_base=first.url, api_key="k")
    for answer in (whole, stream):
        assert compat.response_headers(answer)["x-request-id"].startswith("req_")


def test_what_litellm_knows_of_an_answer(first):
    """The cost, and the model that answered."""
    hidden = compat.hidden(litellm.completion("openai/gpt-4o-mini", PROMPT, api_base=first.url, api_key="k"))
    assert hidden["response_cost"] == pytest.approx((0.15 * 2 + 0.60 * 3) / 1e6)


def test_a_copy_of_an_answer(first):
    """A copy shares nothing that LiteLLM writes into, and equals the original."""
    answer = litellm.completion("openai/gpt-4o-mini", PROMPT, api_base=first.url, api_key="k")
    own = compat.copied(answer)
    assert own == answer
    assert own.choices[0] is not answer.choices[0]
    assert own._hidden_params == answer._hidden_params
    assert own._hidden_params["additional_headers"] is not answer._hidden_params["additional_headers"]


def test_a_mark(first):
    """What LiteLLM writes on an answer from its cache, written on a copy of what it knows."""
    answer = litellm.completion("openai/gpt-4o-mini", PROMPT, api_base=first.url, api_key="k")
    known = compat.hidden(answer)
    compat.mark_cached(answer, "mine")
    told = {"cache_hit": True, "response_cost": 0.0, "litellm_call_id": "mine"}
    assert compat.hidden(answer) == {**known, **told}
    assert not known.get("cache_hit")


def test_chunks_are_assembled(stream):
    """A stream's chunks make a whole answer."""
    assert compat.assembled(list(stream), PROMPT).choices[0].message.content == "one two three"


class Told(CustomLogger):
    """A callback."""

    def __init__(self):
        super().__init__()
        self.events = []

    def log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.events.append((kwargs["litellm_call_id"], kwargs["cache_hit"], kwargs["response_cost"]))

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.log_success_event(kwargs, response_obj, start_time, end_time)


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_log_of_ones_own(first, mode):
    """A logging object tells the callbacks of an answer as of one from the cache, where LiteLLM delivers such."""
    told = Told()
    litellm.callbacks.append(told)
    answer = await litellm.acompletion("openai/gpt-4o-mini", PROMPT, api_base=first.url, api_key="k")
    answer = compat.copied(answer)
    log = compat.new_log("completion", datetime.now(), {"model": "gpt-4o-mini", "messages": PROMPT}, "mine")
    params = {"acompletion": mode == "async", "metadata": {}}
    compat.describe(log, model="gpt-4o-mini", provider="openai", user=None, params=params)
    event = log, answer, datetime.now(), datetime.now()
    if mode == "sync":
        compat.log_in_thread(compat.tell_of_hit, *event)
    else:
        compat.log_later(compat.atell_of_hit(*event))
    for _ in range(200):
        if [event for event in told.events if event[0] == "mine"]:
            break
        await asyncio.sleep(0.01)
    assert [event for event in told.events if event[0] == "mine"] == [("mine", True, 0.0)]


def test_a_stream_from_the_cache():
    """LiteLLM marks a stream that it replays from its cache."""
    stream = compat.unsent_stream("id", "m", PROMPT)
    assert not compat.is_cached(stream)
    stream.custom_llm_provider = "cached_response"
    assert compat.is_cached(stream)


# -- the proxy: the rest is tested in a running one ------------------------------------------------------------------


async def test_nothing_else_is_made_of_a_shutdown(monkeypatch):
    """What is to be closed is closed first; the proxy's own shutdown follows, even where that failed."""
    happened = []

    async def proxy_shutdown_event(worker_heartbeat=None):
        happened.append(worker_heartbeat)

    async def close():
        happened.append("closed")
        raise RuntimeError("a bug")

    server = SimpleNamespace(proxy_shutdown_event=proxy_shutdown_event)
    monkeypatch.setitem(sys.modules, "litellm.proxy.proxy_server", server)
    compat.at_proxy_shutdown(close)
    with pytest.raises(RuntimeError):
        await server.proxy_shutdown_event(worker_heartbeat="theirs")
    assert happened == ["closed", "theirs"]


def test_without_a_proxy_there_is_no_shutdown(monkeypatch):
    """Whoever imports the handler without a proxy does not import one by that."""
    monkeypatch.delitem(sys.modules, "litellm.proxy.proxy_server", raising=False)
    compat.at_proxy_shutdown(lambda: None)
    assert "litellm.proxy.proxy_server" not in sys.modules


def test_nothing_of_this_is_deprecated(recwarn, deployment, first):
    """No name that we use warns."""
    with LLMKit() as kit:
        LLMKitRouter(model_list=[deployment("a", first)], kit=kit).completion("group", PROMPT)
    assert [str(warning.message) for warning in recwarn if issubclass(warning.category, DeprecationWarning)] == []
