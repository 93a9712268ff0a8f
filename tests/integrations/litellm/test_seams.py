"""Attributes that are replaced while somebody needs it."""

from __future__ import annotations

from functools import wraps
from types import SimpleNamespace

import pytest
from llmkit_litellm.seams import Seam, Seams


def shout(function):
    """A wrapper that says it louder."""

    @wraps(function)
    def louder():
        return function().upper()

    return louder


@pytest.fixture
def module():
    """Something with a function."""
    return SimpleNamespace(say=lambda: "hi")


def test_sewn_while_anybody_holds_it(module):
    """The first holder replaces, the last one restores, in whichever order they come and go."""
    original = module.say
    seams = Seams(Seam(module, "say", shout))
    seams.hold()
    seams.hold()
    assert module.say() == "HI"
    seams.release()
    assert module.say() == "HI"
    seams.release()
    assert module.say is original


def test_it_can_be_sewn_again(module):
    """What was restored can be replaced again."""
    seams = Seams(Seam(module, "say", shout))
    for _ in range(2):
        seams.hold()
        assert module.say() == "HI"
        seams.release()
        assert module.say() == "hi"


def test_somebody_elses_wrapper_on_top(module):
    """It stays, with ours underneath, which is not put on twice."""
    seams = Seams(Seam(module, "say", shout))
    seams.hold()
    ours = module.say
    module.say = theirs = wraps(ours)(lambda: ours() + "!")
    seams.release()
    assert module.say is theirs
    seams.hold()
    assert module.say() == "HI!"


def test_somebody_elses_replacement(module):
    """Where somebody has replaced ours altogether, it is put on again, and theirs restored."""
    seams = Seams(Seam(module, "say", shout))
    seams.hold()
    module.say = theirs = lambda: "ho"
    seams.hold()
    assert module.say() == "HO"
    seams.release()
    seams.release()
    assert module.say is theirs
