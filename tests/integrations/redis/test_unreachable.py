"""A Redis that is down, that stalls, that comes back: no call notices."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from threading import Event, Thread
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
    assert "refused" in logged if trouble == "down" else "Timeout" in logged


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


PERMIT = Claim("{llmkit}:permits", 60.0, 3.0, 1.0, "me")
RATE = Claim("{llmkit}:rate", 1.0, 10.0, 9.0)


@pytest.mark.parametrize("asks", [False, True], ids=["idle", "asks"])
def test_permits_given_back_to_a_redis_that_stalls_come_back(server, eventually, asks):
    """They are kept until it answers, and do not stay away for the length of their lease."""
    store = RedisStore(server.url, timeout_seconds=0.05, retry_seconds=0.05)
    other = PERMIT._replace(holder="other")
    assert store.take([PERMIT, other]).taken
    server.stall()
    store.shift([PERMIT])
    if asks:
        assert store.take([RATE]) is UNREACHABLE
    store.shift([other])
    server.go_on()
    eventually(lambda: not server.client.exists(PERMIT.key))


def test_a_permit_whose_answer_was_lost_comes_back(server, eventually):
    """Redis has given it all the same."""
    store = RedisStore(server.url, timeout_seconds=0.05, retry_seconds=0.05)
    assert store.take([RATE]).taken
    server.stall()
    assert store.take([PERMIT, RATE]) is UNREACHABLE
    server.go_on()
    eventually(lambda: float(server.client.get(RATE.key)) > 0 and not server.client.exists(PERMIT.key))


def test_permits_given_back_to_one_that_had_to_step_down_come_back(server, caplog, eventually):
    """It is asked through a new connection, which may lead to its successor; the log says what it said."""
    store = RedisStore(server.url, retry_seconds=0.05)
    assert store.take([PERMIT]).taken
    server.client.replicaof("127.0.0.1", 1)
    try:
        connection = store._client
        assert store.take([RATE]) is UNREACHABLE
        assert "read only replica" in caplog.text
        store.shift([PERMIT])
        eventually(lambda: store._client is not connection)
    finally:
        server.client.replicaof("NO", "ONE")
    eventually(lambda: not server.client.exists(PERMIT.key))


def test_what_is_given_back_while_it_is_left_alone_is_bounded(server, monkeypatch):
    """The oldest comes back by its lease."""
    monkeypatch.setattr("llmkit_plugins.stores.redis._LARGEST_BACKLOG", 3)
    store = RedisStore(server.url)
    store._owe([PERMIT._replace(holder=str(number)) for number in range(5)])
    assert [claim.holder for claim in store._owed] == ["2", "3", "4"]


async def test_who_is_late_himself_gets_the_answer_that_came_in_time(server):
    """An event loop that was busy for longer than it would have waited."""
    store = RedisStore(server.url, timeout_seconds=0.02)
    assert store.take([RATE]).taken
    asked = asyncio.ensure_future(store.atake([RATE]))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(time.sleep, 0.1)
    assert (await asked).taken
    assert store.failures == 0


def test_where_nothing_comes_at_all_only_the_first_waits(server):
    """As where a name is not resolved, which knows no timeout."""
    store = RedisStore(server.url, timeout_seconds=0.02)
    resolved, sent = Event(), store._send

    def resolving(jobs: Any) -> Any:
        resolved.wait(20)
        return sent(jobs)

    store._send = resolving  # type: ignore[method-assign]
    assert store.take([RATE]) is UNREACHABLE
    assert store._ask([RATE]) is None
    assert store.failures == 1
    resolved.set()


def test_where_no_thread_can_be_started_the_next_one_tries_again(server, monkeypatch):
    """There are too many of them just now."""

    def fails(self: Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = RedisStore(server.url, timeout_seconds=0.02, retry_seconds=0.0)
    with monkeypatch.context() as patched:
        patched.setattr("llmkit_plugins.stores.redis.Thread.start", fails)
        assert store.take([RATE]) is UNREACHABLE
    store._timeout_seconds = 5.0
    assert store.take([RATE]).taken


def test_a_process_that_ends_gives_back_what_it_has(server):
    """Nobody has to close a kit, and nothing waits for a lease."""
    program = """
import sys
from llmkit_plugins.stores.redis import Claim, RedisStore
store, claims = RedisStore(sys.argv[1]), [Claim("{llmkit}:permits", 60.0, 3000, 1.0, str(n)) for n in range(3000)]
assert store.take(claims).taken
for claim in claims:
    store.shift([claim])
"""
    subprocess.run([sys.executable, "-c", program, server.url], check=True, timeout=60)
    assert not server.client.exists(PERMIT.key)


def test_a_shorter_lease_ends_no_other(server):
    """Processes need not have the same settings, as while they are being deployed."""
    store = RedisStore(server.url)
    assert store.take([PERMIT]).taken
    assert store.take([PERMIT._replace(step=0.5, holder="other")]).taken
    assert server.client.pttl(PERMIT.key) > 50_000


@pytest.mark.parametrize("claim", [PERMIT._replace(step=1e18), Claim("{llmkit}:a", 1e18, 1e19, 1e18)])
def test_however_far_ahead(server, claim):
    """What is beyond the times that Redis knows is taken, and goes by itself some day."""
    assert RedisStore(server.url).take([claim]).taken
    assert server.client.pttl(claim.key) > 0


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
    from llmkit_plugins.stores import redis_scripts as module

    for script in (module.TAKE, module.SHIFT):
        try:
            server.client.script_load(script)
        except ResponseError as error:
            raise AssertionError(str(error)) from error
