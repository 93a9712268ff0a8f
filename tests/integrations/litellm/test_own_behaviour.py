"""What LiteLLM does for its users, it still does."""

from __future__ import annotations

import asyncio

import litellm
import pytest
from litellm.caching.caching import Cache
from litellm.integrations.custom_logger import CustomLogger

from llmkit_plugins import Refused
from llmkit_plugins.testing.fake_provider import Fault

OK = {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1}


class Heard(CustomLogger):
    """A user's own callback."""

    def __init__(self):
        super().__init__()
        self.events = []

    def log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.events.append("ok")

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.events.append("ok")

    def log_failure_event(self, kwargs, response_obj, start_time, end_time):
        self.events.append("failed")

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time):
        self.events.append("failed")

    async def ends(self, number):
        """Wait for that many events: LiteLLM delivers them in the background."""
        for _ in range(500):
            if len(self.events) >= number:
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        return self.events


@pytest.fixture
def callback():
    """A callback that is registered."""
    heard = Heard()
    litellm.callbacks.append(heard)
    return heard


async def test_callbacks_of_the_user_fire_once(entrance, mode, ask, callback):
    """A user's own callback hears of a call once."""
    await ask(mode, entrance)
    assert await callback.ends(1) == ["ok"]


async def test_callbacks_of_the_user_hear_failures(routed, mode, ask, callback, first):
    """And of an attempt that failed."""
    first.fail_with(Fault("server_error"))
    await ask(mode, routed)
    assert sorted(await callback.ends(2)) == ["failed", "ok"]


async def test_no_retries(routed, mode, ask, first, second, heard):
    """With ``num_retries=0`` there is one attempt."""
    first.fail_with(Fault("server_error"))
    with pytest.raises(litellm.InternalServerError):
        await ask(mode, routed, num_retries=0)
    assert (first.stats.requests, second.stats.requests) == (1, 0)
    assert heard() == {"request": 1, "attempt": 1, "attempt error": 1, "request error": 1}


async def test_bad_requests_are_not_retried(routed, mode, ask, first, second, recorder):
    """What is the caller's own fault is not sent again."""
    first.fail_with(Fault("bad_request"))
    with pytest.raises(litellm.BadRequestError):
        await ask(mode, routed)
    assert second.stats.requests == 0
    assert [attempt.kind for attempt in recorder.attempts] == ["bad_request"]


async def test_fallback_groups(enter, mode, ask, deployment, first, second, heard):
    """A group that fails falls back to the next, within the same call."""
    first.fail_with(Fault("server_error"))
    models = [deployment("a", first, group="one"), deployment("b", second, group="two")]
    entrance = enter("router", model_list=models, fallbacks=[{"one": ["two"]}], num_retries=0)
    assert await ask(mode, entrance, model="one") == "four five"
    assert heard() == {"request": 1, "attempt": 2, "attempt error": 1, "attempt ok": 1, "request ok": 1}


async def test_context_window_fallbacks(enter, mode, ask, deployment, first, second, recorder):
    """A prompt that is too long falls back to the group for that."""
    first.fail_with(Fault("context_length"))
    models = [deployment("a", first, group="small"), deployment("b", second, group="large")]
    entrance = enter("router", model_list=models, context_window_fallbacks=[{"small": ["large"]}])
    assert await ask(mode, entrance, model="small") == "four five"
    assert [attempt.kind for attempt in recorder.attempts] == ["context_length", None]


async def test_mock_responses(entrance, mode, ask, heard, first, second):
    """``mock_response`` answers without a provider, and is heard as a call."""
    assert await ask(mode, entrance, mock_response="a mock") == "a mock"
    assert first.stats.requests == second.stats.requests == 0
    assert heard() == OK


async def test_the_response_cache(entrance, mode, ask, heard, recorder, first):
    """What LiteLLM's cache answers costs neither tokens nor money."""
    litellm.cache = Cache(type="local")
    assert await ask(mode, entrance, caching=True) == "one two three"
    await asyncio.sleep(0.2)  # LiteLLM stores it in the background
    assert await ask(mode, entrance, caching=True) == "one two three"
    assert first.stats.requests == 1
    assert heard() == {"request": 2, "attempt": 2, "attempt ok": 2, "request ok": 2}
    paid, cached = recorder.attempts
    assert paid.cost > 0
    assert (cached.usage, cached.cost) == (None, 0.0)


async def test_a_stream_that_is_wanted_whole(entrance, ask, heard, recorder):
    """LiteLLM answers ``complete_response`` with one object, whatever ``stream`` says."""
    assert await ask("sync", entrance, stream=True, complete_response=True) == "one two three"
    assert heard() == OK
    assert recorder.attempts[0].finish_reason == "stop"


async def test_a_hook_of_the_users_that_wants_no_stream(entrance, ask, heard, recorder):
    """A callback may turn a stream into a whole answer."""

    class Whole(CustomLogger):
        async def async_pre_call_deployment_hook(self, kwargs, call_type):
            return {**kwargs, "stream": False, "stream_options": None}

    litellm.callbacks.append(Whole())
    assert await ask("async", entrance, stream=True) == "one two three"
    assert heard() == OK
    assert recorder.attempts[0].usage.output_tokens == 3


async def test_timeouts(entrance, ask, recorder, first, second):
    """LiteLLM's own timeout ends an attempt, as one."""
    for provider in (first, second):
        provider.fail_with(Fault("timeout"))
    with pytest.raises(litellm.Timeout):
        await ask("async", entrance, timeout=0.1)
    assert {attempt.kind for attempt in recorder.attempts} == {"timeout"}


async def test_retry_after(enter, ask, recorder, first, second):
    """What the provider asks to stay away is on the attempt."""
    first.fail_with(Fault("rate_limit", retry_after=7.0))
    assert await ask("async", enter("router")) == "four five"
    failed = recorder.attempts[0]
    assert (failed.kind, failed.retry_after) == ("rate_limit", 7.0)


async def test_a_single_call_to_many_models(enter, heard):
    """``abatch_completion`` makes a call for each model."""
    answers = await enter("installed").router.abatch_completion(
        models=["group", "group"], messages=[{"role": "user", "content": "hi there"}]
    )
    assert [answer.choices[0].message.content for answer in answers] == ["one two three"] * 2
    assert heard() == {"request": 2, "attempt": 2, "attempt ok": 2, "request ok": 2}


@pytest.mark.parametrize("priority", [0, 1])
async def test_scheduled_calls(routed, ask, heard, priority):
    """A call with a priority goes through LiteLLM's scheduler."""
    assert await ask("async", routed, priority=priority) == "one two three"
    assert heard() == OK


@pytest.mark.parametrize("mode", ["async", "async stream"])  # sync, LiteLLM runs an event loop for each call
async def test_fallbacks_of_an_sdk_call(enter, mode, ask, heard, recorder, first, second):
    """Each is an attempt of the one call, at its own target: what is learned and paid belongs to who answered."""
    first.fail_with(Fault("overloaded"))
    entrance = enter("sdk")
    assert await ask(mode, entrance, fallbacks=[{"model": "openai/gpt-4o", "api_base": second.url}]) == "four five"
    assert heard() == {"request": 1, "attempt": 2, "attempt error": 1, "attempt ok": 1, "request ok": 1}
    failed, answered = recorder.attempts
    assert (failed.target.name, failed.kind) == (*entrance.targets, "overloaded")
    assert (answered.target.name, answered.target.model) == (f"openai/gpt-4o@{second.url}", "gpt-4o")
    assert answered.usage.total_tokens > 0


async def test_fallbacks_of_an_sdk_call_that_is_refused_a_target(enter, ask, heard, kit, plugin, first):
    """The next one is tried: a circuit that is open, say."""

    def refuse(call, attempt):
        if attempt.number == 1:
            raise Refused("open")

    kit.register(plugin(pre_attempt=refuse))
    await ask("async", enter("sdk"), fallbacks=["openai/gpt-4o"])
    assert heard() == {"request": 1, "attempt": 2, "attempt refused": 1, "attempt ok": 1, "request ok": 1}
    assert first.stats.requests == 1


async def test_fallbacks_where_litellm_has_none(enter, kit, heard, first):
    """LiteLLM falls back for chats only: where it does not, there is one attempt as ever."""
    enter("sdk")
    access = {"model": "openai/text-embedding-3-small", "api_base": first.url, "api_key": "k"}
    await litellm.aembedding(input=["hi"], **access, fallbacks=["openai/text-embedding-3-large"])
    assert heard() == OK


async def test_fallbacks_of_an_sdk_call_that_is_cached(enter, ask, callback, heard, first):
    """LiteLLM looks into its cache before it tries anything; it tells of that itself, once."""
    litellm.cache = Cache()
    entrance = enter("sdk")
    for number in (1, 2):
        assert await ask("async", entrance, caching=True, fallbacks=["openai/gpt-4o"]) == "one two three"
        assert await callback.ends(number) == ["ok"] * number
    assert first.stats.requests == 1
    assert heard()["request ok"] == 2
