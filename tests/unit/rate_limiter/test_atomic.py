"""Between reading a state and writing it nothing may let another thread run."""

from __future__ import annotations

import dis
import sys
import threading
from types import SimpleNamespace

import pytest

from llmkit_plugins.plugins.rate_limiter import Limit, TokenBucket, atomic
from llmkit_plugins.plugins.rate_limiter.keyed import Table
from llmkit_plugins.plugins.rate_limiter.levels import levels_of
from llmkit_plugins.plugins.rate_limiter.unrolled import unrolled, unrolled_admit, unrolled_check

HARMLESS = (
    "BINARY_OP",
    "BINARY_SUBSCR",
    "CACHE",
    "COMPARE_OP",
    "CONTAINS_OP",
    "COPY",
    "EXTENDED_ARG",
    "JUMP_FORWARD",
    "LOAD_ATTR",
    "LOAD_CONST",
    "LOAD_FAST",
    "LOAD_GLOBAL",
    "LOAD_SMALL_INT",
    "NOP",
    "NOT_TAKEN",
    "POP_JUMP_FORWARD",
    "POP_JUMP_IF",
    "POP_TOP",
    "RETURN_CONST",
    "RETURN_VALUE",
    "STORE_ATTR",
    "STORE_FAST",
    "STORE_SUBSCR",
    "SWAP",
    "UNPACK_SEQUENCE",
)
"""Instructions that neither check whether another thread wants to run nor make an object the collector tracks."""


def between(function, reads, writes):
    """The instructions from the first that reads the state to the last that writes it."""
    code = list(dis.get_instructions(function))
    first = min(n for n, i in enumerate(code) if i.opname.startswith("LOAD_ATTR") and i.argval == reads)
    last = max(n for n, i in enumerate(code) if i.opname.startswith(writes[0]) and i.argval == writes[1])
    assert first < last
    return code[first : last + 1]


def harmful(function, reads, writes):
    return [i.opname for i in between(function, reads, writes) if not i.opname.startswith(HARMLESS)]


@pytest.mark.parametrize("name", ["check_and_consume", "reserve", "refund"])
def test_a_bucket_is_atomic(name):
    """No method of a bucket lets another thread run between reading its state and writing it."""
    assert not harmful(getattr(TokenBucket, name), "full_at", ("STORE_ATTR", "full_at"))


def test_every_method_that_writes_the_state_is_named_as_atomic():
    """Whatever writes the state of a bucket is on the list that gets a lock where there is no GIL."""
    writers = {
        name
        for name, method in vars(TokenBucket).items()
        if callable(method)
        and any(i.opname == "STORE_ATTR" and i.argval == "full_at" for i in dis.get_instructions(method))
    }
    assert writers - {"__init__"} == set(TokenBucket.ATOMIC)


def test_a_state_of_a_table_is_shifted_atomically():
    """Charging a key does not let another thread run in between."""
    assert not harmful(Table._shift, "young", ("STORE_SUBSCR", None))


def limits(count):
    several = [
        Limit(requests="1/s", per=("user",)),
        Limit(concurrency=2, per=("provider",)),
        Limit(tokens="1/s"),
        Limit(requests="1/s", per=("user", "model")),
    ]
    return [several[number % 4] for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_taking_from_several_levels_is_atomic(clock, count):
    """However many levels are taken from at once, nobody gets in between."""
    levels = [level for limit in limits(count) for level in levels_of(limit, 10, threading.RLock())]
    assert not harmful(unrolled(levels, clock), "young", ("STORE_SUBSCR", None))


@pytest.mark.parametrize("per", [[("user",)], [()], [("provider",), ("model",), ("user", "tenant")]])
def test_checking_several_levels_is_atomic(clock, per):
    """The same where nothing but requests are counted, also for keys of several parts."""
    levels = [level for keys in per for level in levels_of(Limit(requests="1/s", per=keys), 10, threading.RLock())]
    check = unrolled_check(levels, clock, per, lambda *_: False)
    assert not harmful(check, "young", ("STORE_SUBSCR", None))


@pytest.mark.parametrize("per", [[("user",)], [()], [("provider",), ("model",), ("user", "tenant")]])
def test_admitting_to_several_levels_is_atomic(clock, per):
    """The same where a ticket is wanted."""
    levels = [level for keys in per for level in levels_of(Limit(requests="1/s", per=keys), 10, threading.RLock())]
    assert not harmful(unrolled_admit(levels, clock, per), "young", ("STORE_SUBSCR", None))


def test_a_call_in_between_would_be_found():
    """The tests above can fail."""

    def wrong(self, clock):
        full_at = self.full_at
        self.full_at = max(full_at, clock())

    assert harmful(wrong, "full_at", ("STORE_ATTR", "full_at"))


def test_without_a_gil_there_is_a_lock(monkeypatch):
    """An interpreter without a GIL gets a bucket with a lock, of the same behaviour."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert not atomic.lock_free()
    bucket = TokenBucket(1, 2)
    assert isinstance(bucket, TokenBucket)
    assert bucket._lock
    assert [bucket.check_and_consume(cost=1) for _ in range(3)] == [True, True, False]


def test_another_interpreter_gets_a_lock(monkeypatch):
    """Nothing is taken for granted of an interpreter that is not CPython."""
    monkeypatch.setattr(sys, "implementation", SimpleNamespace(name="pypy"))
    assert not atomic.lock_free()


def test_a_tool_that_monitors_means_a_lock(monkeypatch):
    """Where ``sys.monitoring`` has a tool that may run Python between two lines, there is a lock."""
    monkeypatch.setattr(sys, "monitoring", SimpleNamespace(get_tool=lambda tool: tool == 1 or None), raising=False)
    assert not atomic.lock_free()


def test_a_python_tracer_means_a_lock(monkeypatch):
    """A trace function in Python means a lock; coverage's, which is written in C, does not."""
    monkeypatch.setattr(sys, "gettrace", lambda: test_a_python_tracer_means_a_lock)
    assert not atomic.lock_free()
    monkeypatch.setattr(sys, "gettrace", type("CTracer", (), {}))
    monkeypatch.setattr(sys, "monitoring", None, raising=False)
    assert atomic.lock_free()


def test_a_subclass_is_guarded_as_well(monkeypatch):
    """Somebody's own kind of bucket keeps its methods and gets the lock."""

    class Named(TokenBucket):
        __slots__ = ("name",)

        def check_and_consume(self, cost=1.0):
            assert self._lock
            return super().check_and_consume(cost)

    monkeypatch.setattr(sys, "implementation", SimpleNamespace(name="other"))
    assert Named(1).check_and_consume()
    assert type(Named(1)) is type(Named(1))
