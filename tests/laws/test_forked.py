"""Law 6 in a forked process: it waits for nothing that only its parent's threads would bring about."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from llmkit_plugins import Call, LLMKit, ObservabilityPlugin
from llmkit_plugins.forks import _locks
from llmkit_plugins.testing import MODES, Pause, ScriptedBackend, drive

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

PLUGINS = ["observability", "rate_limiter", "multiplexer", "router", "circuit_breaker"]


@pytest.fixture
def kit():
    kit = LLMKit.from_config(
        {
            "plugins": PLUGINS,
            "observability": {"metrics_port": 0},
            "rate_limiter": {"limits": [{"requests": "100/s"}, {"concurrency": 5}]},
            "multiplexer": {"retain_seconds": 1},
            "targets": [{"name": "a", "provider": "p", "model": "m"}],
        }
    )
    yield kit
    kit.close()


def forked(work: Callable[[], Any]) -> bool:
    """Whether *work* came to its end in a forked process, within a time that is long."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout has one of its own
        signal.alarm(20)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return status == 0


@pytest.mark.parametrize("mode", MODES)
def test_an_upstream_under_way_is_the_parents(kit, mode):
    """The same call is made anew in the child, where nobody would bring the answer of the one that is under way."""
    sending, released = threading.Event(), threading.Event()

    def sleep(_: float) -> None:
        sending.set()
        released.wait(60)

    slow = ScriptedBackend(default=[Pause(1.0), "of the parent"], sleep=sleep)
    answers = []
    caller = threading.Thread(target=lambda: answers.append(drive(kit, Call("hi"), slow, mode.removeprefix("a"))))
    caller.start()
    assert sending.wait(60)
    try:
        assert forked(lambda: answered(kit, mode))
    finally:
        released.set()
        caller.join()
    assert answers == ["of the parent"]


@pytest.mark.parametrize("mode", MODES)
def test_locks_that_threads_hold_are_the_parents(kit, mode):
    """Whatever they were at when the process was forked, the child can make calls, and close the kit."""
    answered(kit, mode)
    held, released = threading.Event(), threading.Event()

    def hold() -> None:
        locks = [lock for lock in list(_locks) if lock.acquire(timeout=1.0)]
        held.set()
        released.wait(60)
        for lock in locks:
            lock.release()

    def work() -> None:
        answered(kit, mode, "another question")
        kit.close()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    try:
        assert forked(work)
    finally:
        released.set()
        holder.join()


def test_metrics_are_served_by_the_parent():
    """Closing does not wait for the thread that serves them, which the child does not have."""
    kit = LLMKit([ObservabilityPlugin(metrics_port=0)])
    assert forked(kit.close)
    kit.close()


def answered(kit: LLMKit, mode: str, question: str = "hi") -> None:
    assert drive(kit, Call(question), ScriptedBackend(), mode) == "abc"
