"""Who shares another's answer is a caller of his own to LiteLLM's callbacks: one success event, his, at no cost."""

from __future__ import annotations

import asyncio
from datetime import datetime

import litellm
import pytest
from litellm.integrations.custom_logger import CustomLogger

from llmkit_plugins import Answer, Response, Share

ASYNC = ["async", "async stream"]


@pytest.fixture
def kit(kit, plugin):
    """A kit where all calls share."""
    kit.register(plugin("sharing", pre_request=lambda call: Share("all")))
    return kit


class Events(CustomLogger):
    """A user's own callback: what each event says."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def log_success_event(self, kwargs, response_obj, start_time, end_time):
        self._hear(kwargs, response_obj, "sync")

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self._hear(kwargs, response_obj, "async")

    def _hear(self, kwargs, response, how):
        payload = kwargs["standard_logging_object"]
        self.seen.append(
            {
                "text": response.choices[0].message.content,
                "tokens": response.usage.total_tokens,
                "cost": (kwargs["response_cost"], payload["response_cost"]),
                "cached": bool(kwargs.get("cache_hit")),
                "key": payload["metadata"]["user_api_key_hash"],
                "group": payload["model_group"],
                "id": payload["id"],
                "how": how,
            }
        )

    async def ends(self, number):
        """Wait for that many events, and for one that should not come."""
        for _ in range(500):
            if len(self.seen) >= number:
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        return self.seen


@pytest.fixture
def events():
    """The user's callback, registered."""
    heard = Events()
    litellm.callbacks.append(heard)
    return heard


async def test_each_caller_has_one_event_of_his_own(entrance, mode, ask, first, events):
    """All share one answer: the one who started it pays, the others have it for nothing, each with his own key."""
    first.slow_down(first_token_seconds=0.3)
    keys = [f"{number:064x}" for number in range(4)]
    asked = [ask(mode, entrance, metadata={"user_api_key": key, "user_api_key_hash": key}) for key in keys]
    assert await asyncio.gather(*asked) == ["one two three"] * 4
    assert first.stats.requests == 1
    told = await events.ends(4)
    assert len(told) == 4
    assert {event["key"] for event in told} == set(keys)
    assert {event["text"] for event in told} == {"one two three"}
    assert {event["tokens"] for event in told} == {5}
    assert {event["how"] for event in told} == {mode.split()[0]}
    paid = [event for event in told if event["cost"][1] > 0]
    assert [event["cached"] for event in paid] == [False]
    assert [event["cost"] for event in told if event["cached"]] == [(0.0, 0.0)] * 3
    if entrance.kind != "sdk":
        assert {event["group"] for event in told} == {"group"}


async def test_the_answer_says_so(entrance, mode, first, ask):
    """A shared answer is marked as LiteLLM marks what its cache answers, so that a proxy's headers are right."""
    first.slow_down(first_token_seconds=0.3)
    stream = mode.endswith("stream")

    async def one():
        if mode.startswith("sync"):
            return await asyncio.to_thread(entrance.completion, stream=stream)
        return await entrance.acompletion(stream=stream)

    answers = await asyncio.gather(one(), one())
    marks = [(answer._hidden_params.get("cache_hit"), answer._hidden_params.get("response_cost")) for answer in answers]
    assert marks.count((True, 0.0)) == 1
    for answer in answers:
        if stream and mode.startswith("sync"):
            await asyncio.to_thread(list, answer)
        elif stream:
            [_ async for _ in answer]


@pytest.mark.parametrize("mode", ASYNC)
async def test_a_logging_object_of_ones_own(entrance, mode, ask, first, events):
    """A proxy has made one for each of its callers: the event is told of that, with the auth that came with it."""
    first.slow_down(first_token_seconds=0.1)
    logs = [_log(mode, number) for number in range(3)]
    asked = [
        ask(mode, entrance, litellm_logging_obj=log, metadata=metadata, litellm_call_id=log.litellm_call_id)
        for log, metadata in logs
    ]
    await asyncio.gather(*asked)
    told = await events.ends(3)
    assert sorted(event["key"][-1] for event in told) == ["0", "1", "2"]
    for log, _ in logs[1:]:
        assert log.model_call_details["cache_hit"] is True
        assert log.model_call_details["response_cost"] == 0.0


def _log(mode, number):
    metadata = {"user_api_key": f"{number:064x}", "user_api_key_hash": f"{number:064x}"}
    log, _ = litellm.utils.function_setup(
        "acompletion",
        litellm.utils.Rules(),
        datetime.now(),
        model="group",
        messages=[{"role": "user", "content": "hi there"}],
        stream=mode.endswith("stream"),
        litellm_call_id=f"call-{number}",
        metadata=metadata,
    )
    return log, metadata


@pytest.mark.parametrize("mode", ASYNC)
async def test_a_deployments_tokens_are_counted_once(enter, mode, ask, first, events):
    """The tokens a minute of a deployment are those that it was asked for."""
    entrance = enter("router", routing_strategy="usage-based-routing-v2")
    first.slow_down(first_token_seconds=0.1)
    await asyncio.gather(*(ask(mode, entrance) for _ in range(3)))
    await events.ends(3)
    kept = _kept(entrance.router)
    assert [value for key, value in kept.items() if key.startswith("a:") and ":tpm:" in key] == [5]


@pytest.mark.parametrize("mode", ASYNC)
async def test_a_deployments_latency_is_its_own(enter, mode, ask, first, events):
    """LiteLLM's latency-based routing learns from what a deployment answered, not from who came late."""
    entrance = enter("router", routing_strategy="latency-based-routing")
    first.slow_down(first_token_seconds=0.1)
    await asyncio.gather(*(ask(mode, entrance) for _ in range(3)))
    await events.ends(3)
    learnt = _kept(entrance.router)["group_map"]["a"]
    assert [len(samples) for name, samples in learnt.items() if name.startswith("latency")] == [1]


@pytest.mark.parametrize("mode", ASYNC)
async def test_who_leaves_has_no_event(entrance, mode, ask, first, events):
    """A follower who was cancelled was not answered."""
    first.slow_down(first_token_seconds=0.2)
    leader = asyncio.create_task(ask(mode, entrance))
    await asyncio.to_thread(first.wait_until, lambda stats: stats.in_flight == 1)
    follower = asyncio.create_task(ask(mode, entrance))
    await asyncio.sleep(0.05)
    follower.cancel()
    await leader
    told = await events.ends(1)
    assert [event["cached"] for event in told] == [False]


def _kept(router):
    store = router.health().store if hasattr(router, "health") else router.cache
    return store.in_memory_cache.cache_dict


async def test_who_leaves_after_the_last_word_has_one(entrance, first, ask, events):
    """A follower who closes his stream after the finish reason was answered."""
    first.slow_down(first_token_seconds=0.2)
    leader = asyncio.create_task(ask("async stream", entrance))
    await asyncio.to_thread(first.wait_until, lambda stats: stats.in_flight == 1)
    follower = await entrance.acompletion(stream=True)
    async for chunk in follower:
        if chunk.choices[0].finish_reason:
            break
    await follower.aclose()
    await leader
    assert sorted(event["cached"] for event in await events.ends(2)) == [False, True]


async def test_a_bug_of_litellms_is_nobodys_problem(entrance, mode, ask, first, monkeypatch, caplog):
    """Where telling fails, the caller has his answer all the same."""

    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr("llmkit_litellm.compat.new_log", broken)
    first.slow_down(first_token_seconds=0.2)
    assert await asyncio.gather(ask(mode, entrance), ask(mode, entrance)) == ["one two three"] * 2
    for _ in range(200):
        if "could not be told" in caplog.text:
            break
        await asyncio.sleep(0.01)
    assert "could not be told" in caplog.text


async def test_a_plugins_own_answer(entrance, ask, kit, plugin, first, events):
    """So is one whom a plugin answered; what LiteLLM does not know is not told to it."""
    answer = litellm.ModelResponse(
        choices=[{"message": {"role": "assistant", "content": "mine"}, "finish_reason": "stop"}],
        usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    )
    answers = iter([answer, "anything"])
    kit.register(plugin("answering", pre_request=lambda call: Answer(Response(next(answers)))), at=0)
    assert await ask("async", entrance) == "mine"
    assert await entrance.acompletion() == "anything"
    assert [(event["text"], event["cached"]) for event in await events.ends(1)] == [("mine", True)]
    assert first.stats.requests == 0
