"""Law 5: refusals carry data, through every driver."""

from __future__ import annotations

import pytest

from llmkit_plugins import Call, CircuitOpen, NoTarget, RateLimited, Refused, Target


@pytest.mark.parametrize(
    ("refusal", "fields"),
    [
        (RateLimited("requests", "u1", 3.0), {"limit": "requests", "key": "u1", "retry_after": 3.0}),
        (CircuitOpen("a", 9.0), {"target": "a", "retry_after": 9.0}),
        (Refused("not today"), {"why": "not today", "retry_after": None}),
    ],
    ids=["rate", "circuit", "plain"],
)
@pytest.mark.parametrize("hook", ["pre_request", "route", "pre_attempt"])
def test_the_caller_gets_the_refusal_itself(scene, plugin, sharing, mode, hook, refusal, fields):
    """Wherever a plugin refused, the caller catches that very refusal with its data."""

    def refuse(call):
        raise refusal

    stage = scene(*sharing, plugin(**{hook: refuse}), targets=[Target("a", "p", "m")])
    call = Call("hi")
    with pytest.raises(Refused) as caught:
        stage.drive(mode, call)
    assert caught.value is refusal
    assert {name: getattr(caught.value, name) for name in fields} == fields
    assert call.outcome == "refused"


def test_a_generator_refuses_like_a_function(scene, plugin, sharing, mode):
    """A hook that yields steps may refuse as well, before or after one."""

    def refuse(call):
        yield from ()
        raise RateLimited("requests", retry_after=1.0)

    with pytest.raises(RateLimited):
        scene(*sharing, plugin(pre_request=refuse)).drive(mode)


def test_each_targets_refusal_is_kept(scene, plugin, sharing, mode):
    """Where several targets refused, the caller gets them all by name, and the shortest time to wait."""

    def refuse(attempt):
        raise CircuitOpen(attempt.target.name, retry_after={"a": 9.0, "b": 4.0}[attempt.target.name])

    with pytest.raises(NoTarget) as caught:
        scene(*sharing, plugin(pre_attempt=refuse)).drive(mode)
    assert {name: refusal.retry_after for name, refusal in caught.value.reasons.items()} == {"a": 9.0, "b": 4.0}
    assert caught.value.retry_after == 4.0
