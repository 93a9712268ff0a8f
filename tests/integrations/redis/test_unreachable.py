"""A Redis that is down, that stalls, that comes back: no call notices."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis.exceptions import ResponseError

from llmkit_plugins import Attempt, Backend, Call, LLMKit, ObservabilityPlugin, RateLimited, Target
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiterPlugin
from llmkit_plugins.stores.redis import UNREACHABLE, Claim, RedisStore, store_at


class Instant(Backend):
    def send(self, call: Call, attempt: Attempt | None) -> Any:
        return "answer"

    async def asend(self, call: Call, attempt: Attempt | None) -> Any:
        return "answer"


def kit_of(url: str, registry: CollectorRegistry | None = None, **settings: Any) -> LLMKit:
    plugin = RateLimiterPlugin(limits=[Limit(requests="4/h", per="user")], store=url, **settings)
    watching = [] if registry is None else [ObservabilityPlugin(registry=registry)]
    return LLMKit([*watching, plugin], [Target("a", "p", "m")], on_plugin_error="raise")


@pytest.mark.parametrize("way", ["call", "acall"])
@pytest.mark.parametrize("trouble", ["down", "stalls"])
async def test_calls_go_on_with_what_the_process_knows(server, caplog, way, trouble):
    """The limit still holds in the process; it is logged once and counted; only the first call waits."""
    registry = CollectorRegistry()
    kit = kit_of(server.url, registry)
    (server.stop if trouble == "down" else server.stall)()
    admitted, slowest = 0, []
    with caplog.at_level(logging.INFO, "llmkit"):
        for _ in range(6):
            began = time.monotonic()
            try:
                call = Call("question", user="ann")
                kit.call(call, Instant()) if way == "call" else await kit.acall(call, Instant())
                admitted += 1
            except RateLimited as refused:
                assert refused.limit == "requests 4/h per user"
            slowest.append(time.monotonic() - began)
    assert admitted == 4
    assert sorted(slowest)[-2] < 0.2
    assert slowest[0] < 1.0
    assert registry.get_sample_value("llmkit_store_unreachable_total") == 4
    (logged,) = [record.getMessage() for record in caplog.records if record.name == "llmkit"]
    assert "each process counts by itself" in logged
    assert f"127.0.0.1:{server.port}" in logged


async def test_it_is_found_again(server, caplog):
    """A second after it came back it is asked again, and that is logged as loudly as its loss."""
    store = RedisStore(server.url, retry_seconds=0.05)
    claims = [Claim("{llmkit}:a", 1.0, 10.0, 9.0)]
    assert (await store.atake(claims)).taken
    server.stop()
    with caplog.at_level(logging.WARNING, "llmkit"):
        assert await store.atake(claims) is UNREACHABLE
        server.start()
        await asyncio.sleep(0.06)
        assert (await store.atake(claims)).taken
    assert caplog.records[-1].getMessage() == f"Redis at 127.0.0.1:{server.port} answers again"
    assert store.failures == 1


def test_a_connection_it_has_closed_is_made_anew(server):
    """Redis drops idle ones, and is started anew: that is no failure."""
    store = RedisStore(server.url)
    assert store.take([Claim("{llmkit}:a", 1.0, 10.0, 9.0)]).taken
    server.client.client_kill_filter(_type="normal", skipme=True)
    assert store.take([Claim("{llmkit}:a", 1.0, 10.0, 9.0)]).taken
    assert store.failures == 0


def test_what_one_asks_wrongly_is_its_own(server):
    """A key that holds something else fails whoever wants it, not those asked for in the same round trip."""
    store = RedisStore(server.url)
    server.client.set("{llmkit}:spoilt", "text")
    server.client.rpush("{llmkit}:list", "text")
    server.stall()
    spoilt = store._ask([Claim("{llmkit}:list", 1.0, 10.0, 9.0)])
    sound = store._ask([Claim("{llmkit}:a", 1.0, 10.0, 9.0)])
    server.go_on()
    assert spoilt is not None
    assert sound is not None
    assert spoilt.result(5) is UNREACHABLE
    assert sound.result(5).taken


def test_what_an_answer_too_late_took_is_given_back(server, eventually):
    """Who gave up waiting has taken nothing in the end."""
    store = RedisStore(server.url, timeout_seconds=0.1, retry_seconds=0.01)
    store.take([Claim("{llmkit}:other", 1.0, 10.0, 9.0)])
    claims = [Claim("{llmkit}:rate", 5.0, 10.0, 9.0), Claim("{llmkit}:permit", 60.0, 3.0, 1.0, "me")]
    sent = store._send

    def late(jobs: Any) -> Any:
        answers = sent(jobs)
        if any(job.claims is claims for job in jobs):
            time.sleep(0.4)
        return answers

    store._send = late  # type: ignore[method-assign]
    assert store.take(claims) is UNREACHABLE
    eventually(lambda: not server.client.exists("{llmkit}:rate", "{llmkit}:permit"))


def test_a_backlog_is_bounded(server, monkeypatch):
    """Where Redis is slower than those who ask, they are not kept waiting."""
    monkeypatch.setattr("llmkit_plugins.stores.redis._LARGEST_BACKLOG", 3)
    store = RedisStore(server.url, timeout_seconds=5.0)
    claims = [Claim("{llmkit}:a", 1.0, 10.0, 9.0)]
    assert store.take(claims).taken
    server.stall()
    asked = [store._ask(claims) for _ in range(20)]
    assert asked[-1] is None
    server.go_on()
    assert all(reply.result(5) for reply in asked if reply is not None)


def test_its_thread_ends_when_there_is_nothing_to_do(server, monkeypatch, eventually):
    """And is there again for the next."""
    monkeypatch.setattr("llmkit_plugins.stores.redis._IDLE_SECONDS", 0.02)
    store = RedisStore(server.url)
    claims = [Claim("{llmkit}:a", 1.0, 10.0, 9.0)]
    for _ in range(3):
        assert store.take(claims).taken
        eventually(lambda: store._thread is None)


def test_one_store_for_each_redis(server):
    """All plugins of a process share a connection."""
    assert store_at(server.url) is store_at(server.url)
    assert store_at(server.url) is not store_at(server.url + "1")


def test_closing_waits_no_longer_than_it_may(server, caplog):
    """What a stalled Redis cannot be given back is lost, and that is said."""
    store = RedisStore(server.url, timeout_seconds=1.0)
    store.take([Claim("{llmkit}:a", 1.0, 10.0, 9.0)])
    server.stall()
    store.shift([Claim("{llmkit}:a", -1.0, 10.0, 9.0)])
    began = time.monotonic()
    store.flush(0.05)
    assert time.monotonic() - began < 0.5
    assert "may be lost" in caplog.text


@pytest.mark.parametrize("place", ["host.example:1234", "localhost:6379", "/run/redis.sock"])
def test_where_it_is_without_its_secrets(place):
    """A password never reaches a log."""
    url = "unix:///run/redis.sock" if place.startswith("/") else f"redis://user:secret@{place}/3"
    assert RedisStore(url).place == place


def test_the_scripts_say_what_is_wrong(server):
    """They are what the server understands: an error would name the line."""
    from llmkit_plugins.stores import redis as module

    for script in (module._TAKE, module._SHIFT):
        try:
            server.client.script_load(script)
        except ResponseError as error:
            raise AssertionError(str(error)) from error
