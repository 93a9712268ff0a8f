"""Every state meets every event."""

from __future__ import annotations

import pytest

from llmkit_plugins.plugins.circuit_breaker import MOVES, State

CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN

TABLE = {
    # event:         closed, open,      half-open
    "tripped":       (OPEN, None, None),
    "waited":        (None, HALF_OPEN, None),
    "probes_ok":     (None, None, CLOSED),
    "probe_failed":  (None, None, OPEN),
    "forced_open":   (OPEN, OPEN, OPEN),
    "forced_closed": (CLOSED, CLOSED, CLOSED),
    "reset":         (CLOSED, CLOSED, CLOSED),
}  # fmt: skip

HAPPENINGS = {
    # what happens:                             from closed, open,      half-open
    "an answer":                                (CLOSED, OPEN, HALF_OPEN),
    "two answers":                              (CLOSED, OPEN, CLOSED),
    "a first chunk":                            (CLOSED, OPEN, HALF_OPEN),
    "a stream, its chunk and its end":          (CLOSED, OPEN, HALF_OPEN),
    "a failure":                                (CLOSED, OPEN, OPEN),
    "four failures":                            (CLOSED, OPEN, OPEN),
    "five failures":                            (OPEN, OPEN, OPEN),
    "a 429":                                    (CLOSED, OPEN, OPEN),
    "five 429":                                 (OPEN, OPEN, OPEN),
    "an error that is the caller's":            (CLOSED, OPEN, HALF_OPEN),
    "a cancelled call":                         (CLOSED, OPEN, HALF_OPEN),
    "a call that vanishes":                     (CLOSED, HALF_OPEN, HALF_OPEN),
    "time":                                     (CLOSED, HALF_OPEN, HALF_OPEN),
    "force_open":                               (OPEN, OPEN, OPEN),
    "force_open for a while, and the while":    (HALF_OPEN, HALF_OPEN, HALF_OPEN),
    "force_closed":                             (CLOSED, CLOSED, CLOSED),
    "reset":                                    (CLOSED, CLOSED, CLOSED),
}  # fmt: skip

STATES = (CLOSED, OPEN, HALF_OPEN)


def stream(breaker):
    permit = breaker.acquire()
    breaker.record_first_chunk(0.1, permit=permit)
    breaker.record_stream_end(2.0, permit=permit)


def vanish(breaker, clock):
    breaker.acquire()
    clock.advance(60.0)


def open_for_a_while(breaker, clock):
    breaker.force_open(120.0)
    clock.advance(120.0)


DO = {
    "an answer": lambda b, c: b.record_success(0.1),
    "two answers": lambda b, c: [b.record_success(0.1) for _ in range(2)],
    "a first chunk": lambda b, c: b.record_first_chunk(0.1),
    "a stream, its chunk and its end": lambda b, c: stream(b),
    "a failure": lambda b, c: b.record_failure("server"),
    "four failures": lambda b, c: [b.record_failure("connection") for _ in range(4)],
    "five failures": lambda b, c: [b.record_failure("overloaded") for _ in range(5)],
    "a 429": lambda b, c: b.record_failure("rate_limit"),
    "five 429": lambda b, c: [b.record_failure("rate_limit") for _ in range(5)],
    "an error that is the caller's": lambda b, c: b.record_failure("bad_request"),
    "a cancelled call": lambda b, c: b.release(b.acquire()),
    "a call that vanishes": vanish,
    "time": lambda b, c: c.advance(60.0),
    "force_open": lambda b, c: b.force_open(),
    "force_open for a while, and the while": open_for_a_while,
    "force_closed": lambda b, c: b.force_closed(),
    "reset": lambda b, c: b.reset(),
}


@pytest.mark.parametrize("event", TABLE)
@pytest.mark.parametrize("state", STATES)
def test_the_table_of_moves(state, event):
    """The table has exactly the moves it should have."""
    assert MOVES.get((state, event)) is TABLE[event][STATES.index(state)]


def test_the_table_has_no_other_event():
    """No event is in the table that is not looked at here."""
    assert {event for _, event in MOVES} == set(TABLE)


@pytest.mark.parametrize("happening", HAPPENINGS)
@pytest.mark.parametrize("state", STATES)
def test_every_state_meets_everything(in_state, clock, state, happening):
    """Whatever can happen in a state leads where it should."""
    breaker = in_state(state)
    DO[happening](breaker, clock)
    assert breaker.state is HAPPENINGS[happening][STATES.index(state)]


@pytest.mark.parametrize("state", STATES)
def test_admission_follows_the_state(in_state, state):
    """A closed circuit admits, an open one does not, a half-open one admits probes."""
    breaker = in_state(state)
    admits = state is not OPEN
    assert breaker.available is admits
    assert (breaker.acquire() is not None) is admits
    assert (breaker.retry_after() == 0.0) is admits
