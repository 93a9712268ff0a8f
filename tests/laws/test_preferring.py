"""A route hook may prefer some targets: the others are there for the hooks after it, where nothing else is left."""

from __future__ import annotations

import pytest

from llmkit_plugins import Call, CircuitOpen, LLMKit, NoTarget, Prefer, Refused, Target
from llmkit_plugins.testing import Failure

A, B, C = (Target(name, "provider", "model") for name in "abc")


def preferring(*preferred: Target):
    return lambda targets: Prefer(preferred, [target for target in targets if target not in preferred])


def without(*left_out: Target):
    return lambda targets: [target for target in targets if target not in left_out]


def routed(*plugins):
    return LLMKit(plugins, on_plugin_error="raise").route(Call("hi"), (A, B, C))


def test_the_hooks_after_it_choose_among_the_preferred(plugin):
    """A hook that would turn everything round does not see the others."""
    turned = plugin("turned", route=lambda targets: targets[::-1])
    assert routed(plugin(route=preferring(B, C)), turned) == (C, B)


def test_where_they_leave_none_they_are_asked_about_all(plugin):
    """In the order of the one who prefers."""
    assert routed(plugin(route=preferring(C)), plugin("without", route=without(C))) == (A, B)


def test_where_they_refuse_they_are_asked_about_all(plugin):
    """A refusal for want of anything better stands only where all are to be had."""

    def guard(targets):
        usable = [target for target in targets if target is A]
        if not usable:
            raise CircuitOpen(targets[0].name, 60.0)
        return usable

    assert routed(plugin(route=preferring(B, C)), plugin("guard", route=guard)) == (A,)
    with pytest.raises(CircuitOpen):
        routed(plugin("eu", route=without(A)), plugin(route=preferring(B)), plugin("guard", route=guard))


def test_what_was_left_out_stays_out(plugin):
    """By whom who came before, who came after, or who prefers."""
    some = plugin(route=lambda targets: Prefer([targets[0]], []))
    assert routed(plugin("eu", route=without(A)), plugin(route=preferring(B)), plugin("us", route=without(B))) == (C,)
    assert routed(some, plugin("us", route=without(A))) == ()


def test_two_of_them(plugin):
    """The second one's wishes count among what the first one prefers, then among all."""
    second = plugin("second", route=lambda targets: Prefer(targets[-1:], targets[:-1]))
    assert routed(plugin(route=preferring(A, B)), second) == (B,)
    assert routed(plugin(route=preferring(A)), second, plugin("without", route=without(A))) == (C,)


def test_none_are_preferred(plugin):
    """The others are all there is."""
    assert routed(plugin(route=lambda targets: Prefer([], targets[::-1]))) == (C, B, A)


def test_targets_it_was_not_given(plugin):
    """That is its bug, and changes nothing."""
    kit = LLMKit([plugin(route=lambda targets: Prefer(targets[:1], [Target("d", "provider", "model")]))])
    assert kit.route(Call("hi"), (A, B)) == (A, B)
    assert kit.bugs == {"plugin.llmkit_route": 1}


def test_the_others_are_failed_over_to(scene, sharing, plugin, mode):
    """Each attempt is routed anew, so who was not preferred at first is tried next."""
    last = plugin(route=lambda targets: Prefer(targets[-1:], targets[:-1]))
    stage, call = scene(*sharing, last, script={"b": [Failure("server")]}), Call("hi")
    assert stage.drive(mode, call) == "abc"
    assert [attempt.target.name for attempt in call.attempts] == ["b", "a"]


def test_nobody_is_left(scene, sharing, plugin, mode):
    """The reasons say who left out whom."""
    stage = scene(
        *sharing,
        plugin("picky", route=lambda targets: Prefer(targets[:1], targets[1:])),
        plugin("nobody", route=lambda targets: targets[:0]),
    )
    with pytest.raises(Refused) as caught:
        stage.drive(mode)
    assert isinstance(caught.value, NoTarget)
    assert caught.value.reasons == dict.fromkeys("ab", "dropped by nobody.llmkit_route")
