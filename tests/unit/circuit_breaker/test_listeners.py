"""What listeners are told, in what order, and that their bugs hurt nobody."""

from __future__ import annotations

import logging

import pytest

from llmkit_plugins.plugins.circuit_breaker import Reason, State, Transition


def test_every_transition_is_told_with_its_reason(make, clock):
    """A full circle is three transitions, each with which statistic met which threshold."""
    told = []
    breaker = make(listeners=[told.append])
    for _ in range(5):
        breaker.record_failure("server")
    clock.advance(70.0)
    for _ in range(2):
        breaker.record_success(0.1)
    opened, closed = 1000.5, 1070.5
    five, waited, two = (
        Reason("consecutive_failures", 5, 5),
        Reason("open_seconds", 70.0, 60.0),
        Reason("successful_probes", 2, 2),
    )
    assert told == [
        Transition("target", State.CLOSED, State.OPEN, "tripped", five, opened, open_seconds=60.0),
        Transition("target", State.OPEN, State.HALF_OPEN, "waited", waited, closed),
        Transition("target", State.HALF_OPEN, State.CLOSED, "probes_ok", two, closed),
    ]


def test_force_is_told_without_a_reason(make):
    """What somebody decided has no statistic; what changes nothing is not told."""
    told = []
    breaker = make(listeners=[told.append])
    for decide in (breaker.reset, breaker.force_closed, breaker.force_open, breaker.force_open, breaker.force_closed):
        decide()
    assert [(move.event, move.reason, move.open_seconds) for move in told] == [
        ("forced_open", None, None),
        ("forced_closed", None, None),
    ]


def test_a_failed_probe_is_told(in_state):
    """A probe that fails says so, and for how long the circuit is open now."""
    breaker = in_state(State.HALF_OPEN)
    told = []
    breaker.listeners.append(told.append)
    breaker.record_failure("server")
    assert (told[0].event, told[0].reason) == ("probe_failed", Reason("failed_probes", 1, 1))
    assert told[0].open_seconds == 120.0


def test_a_listeners_bug_hurts_nobody(make, caplog):
    """A listener that raises is logged with its traceback; the call and the other listeners go on."""
    told = []

    def bug(transition):
        raise RuntimeError("listener bug")

    def fails():
        raise ValueError("of the target")

    breaker = make(listeners=[bug, told.append])
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            with pytest.raises(ValueError, match="of the target"):
                breaker.call(fails)
    assert breaker.state is State.OPEN
    assert len(told) == 1
    assert [record.exc_info[1].args for record in caplog.records] == [("listener bug",)]


def test_a_listener_may_use_the_breaker(make):
    """A listener that closes the circuit is heard, and everybody is told both moves in order."""
    told = []
    breaker = make()
    breaker.listeners.append(lambda move: breaker.force_closed() if move.after is State.OPEN else None)
    breaker.listeners.append(lambda move: told.append(move.after))
    for _ in range(5):
        breaker.record_failure("server")
    assert breaker.state is State.CLOSED
    assert told == [State.OPEN, State.CLOSED]


def test_a_listener_that_interrupts_is_not_told_twice(make):
    """Ctrl-C in a listener passes, and later transitions are still told."""
    told = []

    def interrupt(move):
        told.append(move.after)
        if len(told) == 1:
            raise KeyboardInterrupt

    breaker = make(listeners=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        breaker.force_open()
    breaker.force_closed()
    assert told == [State.OPEN, State.CLOSED]
