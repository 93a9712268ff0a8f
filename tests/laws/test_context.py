"""Context variables: alone, hooks and backend see the caller's; shared, the upstream sees a copy of the starter's."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from llmkit_plugins import Call

USER = contextvars.ContextVar("user", default="nobody")


@pytest.fixture
def seen(plugin):
    """A plugin that notes whom each hook sees, and the notes."""
    notes = {}

    def note(place):
        def hook(call):
            notes.setdefault(place, []).append(USER.get())

        return hook

    hooks = {place: note(place) for place in ("pre_request", "route", "pre_attempt", "post_attempt", "post_response")}
    return plugin(**hooks), notes


def in_a_fresh_context(function):
    return contextvars.Context().run(function)


def test_every_hook_sees_the_callers_context(scene, sharing, seen, mode):
    """The caller's variables reach every hook and the backend."""
    watcher, notes = seen
    stage = scene(watcher, *sharing, script={"a": [lambda: notes.setdefault("backend", [USER.get()]) and "x"]})

    def call():
        USER.set("ann")
        assert stage.drive(mode) == "x"

    in_a_fresh_context(call)
    assert notes == {place: ["ann"] for place in notes}
    assert len(notes) == 6


def test_the_upstream_sees_its_starters_context(scene, share, seen):
    """What runs once for all runs as the one who started it; what runs for each caller as that caller."""
    watcher, notes = seen
    stage = scene(watcher, share())

    async def caller(name):
        USER.set(name)
        return await stage.adrive("astream")

    async def scenario():
        await asyncio.gather(*[asyncio.create_task(caller(name)) for name in ("ann", "bob")])

    stage.arun(scenario)
    assert notes["pre_request"] == ["ann", "bob"]
    assert sorted(notes["post_response"]) == ["ann", "bob"]
    assert notes["pre_attempt"] == notes["post_attempt"] == notes["route"] == ["ann"]


def test_threads_pull_in_the_starters_context(scene, share, seen):
    """Whoever pulls, the upstream runs as the one who started it, and the puller's variables stay its own."""
    watcher, notes = seen
    whom = []
    stage = scene(watcher, share(), script={"a": ["x", lambda: whom.append(USER.get()) or "y", "z"]})
    ann, bob = contextvars.Context(), contextvars.Context()
    ann.run(USER.set, "ann")
    bob.run(USER.set, "bob")
    first = ann.run(stage.kit.stream, Call("hi"), stage.backend)
    second = bob.run(stage.kit.stream, Call("hi"), stage.backend)
    assert ann.run(next, first) == "x"
    assert "".join(bob.run(list, second)) == "xyz"
    assert whom == ["ann"]
    assert notes["post_attempt"] == ["ann"]
    assert notes["post_response"] == ["bob"]
    assert ann.run(list, first) == ["y", "z"]


def test_what_a_hook_of_a_shared_upstream_sets_stays_there(scene, share, plugin, mode):
    """It does not reach the caller."""
    stage = scene(share(), plugin(pre_attempt=lambda call: USER.set("hook") and None))

    def call():
        USER.set("ann")
        stage.drive(mode)
        return USER.get()

    assert in_a_fresh_context(call) == "ann"
