"""The states of a circuit, the table of moves between them, and the types that describe a move."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


class State(enum.Enum):
    """The state of a circuit."""

    CLOSED = "closed"
    """Calls go through."""
    OPEN = "open"
    """Calls are refused."""
    HALF_OPEN = "half_open"
    """A few probes go through; their answers decide."""


Event = Literal["tripped", "waited", "probes_ok", "probe_failed", "forced_open", "forced_closed", "reset"]

MOVES: dict[tuple[State, Event], State] = {
    (State.CLOSED, "tripped"): State.OPEN,
    (State.CLOSED, "forced_open"): State.OPEN,
    (State.CLOSED, "forced_closed"): State.CLOSED,
    (State.CLOSED, "reset"): State.CLOSED,
    (State.OPEN, "waited"): State.HALF_OPEN,
    (State.OPEN, "forced_open"): State.OPEN,
    (State.OPEN, "forced_closed"): State.CLOSED,
    (State.OPEN, "reset"): State.CLOSED,
    (State.HALF_OPEN, "probes_ok"): State.CLOSED,
    (State.HALF_OPEN, "probe_failed"): State.OPEN,
    (State.HALF_OPEN, "forced_open"): State.OPEN,
    (State.HALF_OPEN, "forced_closed"): State.CLOSED,
    (State.HALF_OPEN, "reset"): State.CLOSED,
}
"""Anything not listed is not a move: the event came late, and nothing happens."""


@dataclass(frozen=True, slots=True)
class Reason:
    """The statistic that moved a circuit: its value, and the threshold it reached."""

    statistic: str
    """``consecutive_failures``, ``failure_rate``, ``slow_call_rate`` (a rate is what is proven), ``rate_limit``;
    ``latency``, ``time_to_first_chunk``, ``seconds_per_output_token`` (sums of deviations; of a probe its z-score);
    ``slow_call_seconds``, ``failed_probes``, ``successful_probes``, ``open_seconds``."""
    value: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Transition:
    """One state change of a circuit, as passed to its listeners."""

    name: str
    """The circuit's name."""
    before: State
    after: State
    event: Event
    reason: Reason | None
    """None where somebody forced it."""
    at: float
    """When, on the circuit's clock."""
    open_seconds: float | None = None
    """How long it stays open at least; None where it did not open, or is open until somebody closes it."""


Listener = Callable[[Transition], object]
