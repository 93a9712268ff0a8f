"""Law 1: who was asked is told the end, exactly once."""

from __future__ import annotations

from collections import Counter

import pytest

from llmkit_plugins import Answer, Call, NoTarget, RateLimited, Response, Target, hookimpl
from llmkit_plugins.testing import Failure, drive

pytestmark = pytest.mark.usefixtures("collector")

OK = {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1}


def refuse(*_):
    raise RateLimited("requests", "u1", retry_after=3.0)


def test_an_answer(scene, sharing, mode):
    """A call that is answered has one request and one attempt, each told once that it ended well."""
    stage = scene(*sharing)
    assert stage.drive(mode) == "abc"
    assert stage.counts == OK
    assert stage.last.counts == stage.first.counts


def test_hooks_go_in_as_listed_and_come_out_reversed(scene, plugin, mode):
    """Pre hooks run in the order of the list, post hooks in the reverse."""
    told = []

    def storyteller(name):
        return plugin(
            name,
            pre_request=lambda call: told.append(f"ask {name}"),
            route=lambda targets: told.append(f"route {name}"),
            pre_attempt=lambda call: told.append(f"try {name}"),
            post_attempt=lambda call: told.append(f"tried {name}"),
            post_response=lambda call: told.append(f"end {name}"),
        )

    scene(storyteller("x"), storyteller("y")).drive(mode)
    assert told == ["ask x", "ask y", "route x", "route y", "try x", "try y", "tried y", "tried x", "end y", "end x"]


def test_a_later_plugin_refuses_the_call(scene, sharing, plugin, mode):
    """Who was asked before the one that refused is told so; who was not asked hears nothing."""
    stage = scene(*sharing, plugin(pre_request=refuse))
    with pytest.raises(RateLimited):
        stage.drive(mode)
    assert stage.counts == {"request": 1, "request refused": 1}
    assert not stage.last.counts
    assert not stage.backend.sent


def test_a_later_plugin_refuses_the_target(scene, sharing, plugin, mode):
    """A refused target is an attempt for those who were asked about it, and the next target is tried."""
    stage = scene(*sharing, plugin(pre_attempt=lambda attempt: refuse() if attempt.target.name == "a" else None))
    assert stage.drive(mode) == "abc"
    assert stage.counts == OK | {"attempt": 2, "attempt refused": 1}
    assert stage.last.counts == Counter(OK | {"route": 2})
    assert stage.backend.sent == {"b": 1}


def test_every_target_refused(scene, sharing, plugin, mode):
    """When every target was refused so is the call, and each attempt has its end."""
    stage = scene(*sharing, plugin(pre_attempt=refuse))
    with pytest.raises(NoTarget):
        stage.drive(mode)
    assert stage.counts == {"request": 1, "attempt": 2, "attempt refused": 2, "request refused": 1}


def test_a_route_hook_refuses_the_call(scene, sharing, plugin, mode):
    """A refusal while routing refuses the call before there is an attempt."""
    stage = scene(*sharing, plugin(route=refuse))
    with pytest.raises(RateLimited):
        stage.drive(mode)
    assert stage.counts == {"request": 1, "request refused": 1}


def test_an_answer_from_a_plugin(scene, sharing, plugin, mode):
    """A plugin's answer ends the call well for those who were asked before it, and nobody is sent anything."""
    stage = scene(*sharing, plugin(pre_request=lambda call: Answer(Response("xyz"), "xyz")))
    call = Call("hi")
    assert stage.drive(mode, call) == "xyz"
    assert stage.counts == {"request": 1, "request ok": 1}
    assert call.outcome == "ok"
    assert not stage.last.counts
    assert not stage.backend.sent


def test_an_answer_is_given_again(scene, plugin, mode):
    """A plugin may return the same answer each time: what a caller does to his own reaches nobody else."""
    answer = Answer(Response(["x"]), [["x"]])
    stage = scene(plugin(pre_request=lambda call: answer))
    stage.backend.copy = list
    for _ in range(2):
        call = Call("hi")
        said = drive(stage.kit, call, stage.backend, mode)
        if "stream" in mode:
            (said,) = said
        assert said == ["x"]
        said.append("mine")
        call.response.raw.append("mine")
        call.response.shared = "mine"
    assert (answer.response.raw, answer.response.shared, answer.chunks) == (["x"], None, [["x"]])


def test_a_failure(scene, sharing, mode):
    """When every target fails the caller gets the last failure, and each attempt has its end."""
    stage = scene(*sharing, script={"a": [Failure("server")], "b": [Failure("overloaded")]})
    with pytest.raises(Failure) as caught:
        stage.drive(mode)
    assert caught.value.kind == "overloaded"
    assert stage.counts == {"request": 1, "attempt": 2, "attempt error": 2, "request error": 1}
    assert stage.first.errors == [Failure]


def test_a_plugin_with_post_hooks_only_hears_every_call(scene, plugin, mode):
    """One that has no pre hook need not have been asked."""
    heard = []
    stage = scene(plugin(pre_request=refuse), plugin(error=lambda call, error: heard.append(error.retry_after)))
    with pytest.raises(RateLimited):
        stage.drive(mode)
    assert heard == [3.0]


def test_a_hook_that_raised_was_asked(scene, plugin, mode):
    """A pre hook that raised before it stored anything is told the end like any other."""
    told = []
    stage = scene(
        plugin(
            pre_request=refuse,
            error=lambda call: told.append(call.outcome),
            post_response=lambda call: told.append(call.outcome),
        )
    )
    with pytest.raises(RateLimited):
        stage.drive(mode)
    assert told == ["refused"]


def test_plugins_that_change_in_flight(scene, plugin, sharing, mode):
    """A call is told to the plugins it began with, whoever comes, goes or moves meanwhile."""
    late = plugin("late", post_attempt=lambda call: told.append("late"), error=lambda call: told.append("late"))
    told = []

    def change(call):
        stage.kit.register(late, at=0)
        stage.kit.unregister(stage.first)
        stage.kit.reorder(list(reversed(stage.kit.plugins)))

    stage = scene(*sharing, plugin("change", pre_attempt=change))
    assert stage.drive(mode) == "abc"
    assert not told
    assert stage.counts == OK


def test_the_call_tells_its_story(scene, sharing, mode):
    """After the end the call has its outcome, response and attempts, with usage and cost by the target's prices."""
    stage = scene(*sharing, targets=[Target("a", "p", "m", input_price=1.0, output_price=2.0)])
    call = Call("hi")
    stage.drive(mode, call)
    (attempt,) = call.attempts
    assert (call.outcome, attempt.outcome, attempt.number) == ("ok", "ok", 1)
    assert call.response.attempt is attempt
    assert call.response.cost == pytest.approx((5 * 1.0 + 3 * 2.0) / 1e6)
    assert call.response.raw == (None if "stream" in mode else "abc")
    assert call.stream == ("stream" in mode)


def test_state_outlives_the_end_only_if_a_plugin_leaves_it(scene, mode):
    """Each plugin has a place of its own on the call and on the attempt, and can pop what it put there."""

    class Stateful:
        @hookimpl
        def llmkit_pre_request(self, call):
            call.state[self] = "request"

        @hookimpl
        def llmkit_pre_attempt(self, call, attempt):
            attempt.state[self] = "attempt"

        @hookimpl
        def llmkit_post_attempt(self, call, attempt):
            popped.append(attempt.state.pop(self, None))

        @hookimpl
        def llmkit_post_response(self, call, response):
            popped.append(call.state.pop(self, None))

    popped: list[str] = []
    call = Call("hi")
    scene(Stateful()).drive(mode, call)
    assert popped == ["attempt", "request"]
    assert not call.state
    assert not call.attempts[0].state
