"""What plugins tell each other besides the hooks."""

from __future__ import annotations

from typing import Any

from llmkit_plugins import LLMKit
from llmkit_plugins.events import CircuitChanged, Events

OPENED = CircuitChanged("a", "closed", "open", "failure rate 0.8 over 0.5")


def test_a_listener_hears_what_it_asked_for() -> None:
    """Each event goes to the listeners of its own kind, in the order they came."""
    heard: list[Any] = []
    events = Events(lambda *_: None)
    events.subscribe(CircuitChanged, lambda event: heard.append(("first", event)))
    events.subscribe(CircuitChanged, lambda event: heard.append(("second", event)))
    events.subscribe(str, heard.append)
    events.publish(OPENED)
    assert heard == [("first", OPENED), ("second", OPENED)]


def test_nobody_is_told_after_unsubscribing() -> None:
    """Who unsubscribed hears nothing more, and the event is no longer wanted."""
    heard: list[Any] = []
    events = Events(lambda *_: None)
    events.subscribe(CircuitChanged, heard.append)
    assert events.wanted(CircuitChanged)
    events.unsubscribe(CircuitChanged, heard.append)
    events.publish(OPENED)
    assert heard == []
    assert not events.wanted(CircuitChanged)


def test_a_bug_in_a_listener_hurts_nobody() -> None:
    """The other listeners are told, the publisher goes on, and the kit counts the bug."""
    heard: list[Any] = []
    kit = LLMKit()

    def broken(event: object) -> None:
        raise ZeroDivisionError

    kit.events.subscribe(CircuitChanged, broken)
    kit.events.subscribe(CircuitChanged, heard.append)
    kit.events.publish(OPENED)
    assert heard == [OPENED]
    assert sum(kit.bugs.values()) == 1
