"""What a call is expected to take."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from llmkit_plugins.plugins.rate_limiter.estimate import Estimator, Quantile
from llmkit_plugins.tokens import MEDIA_CHARS, max_output_tokens, prompt_chars


@pytest.mark.parametrize(
    ("messages", "chars"),
    [
        ("hello", 5),
        (None, 0),
        (17, 0),
        ([{"role": "user", "content": "hello"}], 9),
        ([{"role": "user", "content": [{"type": "text", "text": "hello"}]}], 13),
        ([SimpleNamespace(content="hello"), SimpleNamespace(content=["a", {"text": "b"}])], 7),
        (("hello", "you"), 8),
        ({"url": "data:image/png;base64," + "A" * 1_000_000}, MEDIA_CHARS),
        ({"type": "base64", "media_type": "image/png", "data": "A" * 1_000_000}, MEDIA_CHARS),
        ([SimpleNamespace(text="no content")], 0),
    ],
)
def test_the_characters_of_a_prompt(messages, chars):
    """Prompts are counted in the forms frameworks give them; a picture is not counted by its encoding."""
    assert prompt_chars(messages) == chars


def test_a_prompt_that_contains_itself_has_an_end():
    """Depth is bounded."""
    messages: list[object] = ["x"]
    messages.append(messages)
    assert prompt_chars(messages) == 8


@pytest.mark.parametrize(
    ("params", "bound"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7, "max_tokens": 9}, 7),
        ({"max_tokens": "x"}, None),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": -1}, None),
        ({"max_tokens": float("nan")}, None),
        ({"max_tokens": float("inf")}, 1e12),
        ({"max_tokens": 10**400}, 1e12),
    ],
)
def test_the_bound_of_an_answer(params, bound):
    """The bound has several names."""
    assert max_output_tokens(params) == bound


def test_a_quantile_finds_its_place():
    """Of answers spread like real ones, nine in ten stay below the estimate, also after they change."""
    draw = random.Random(7)
    quantile = Quantile(0.9, 256.0)
    for median in (20.0, 500.0):
        for _ in range(500):
            quantile.learn(median * draw.lognormvariate(0, 1))
        below = 0
        for _ in range(2000):
            length = median * draw.lognormvariate(0, 1)
            below += length <= quantile.value
            quantile.learn(length)
        assert 0.87 < below / 2000 < 0.93


def test_a_new_model_is_expected_to_be_like_the_others():
    """What was learned of all models is what is expected of one not seen before, until it is."""
    estimator = Estimator()
    assert estimator.tokens("new", 400) == (100, 256)
    for _ in range(100):
        estimator.learn("old", 1000, 500, 10)
    assert estimator.tokens("new", 1000) == estimator.tokens("old", 1000)
    assert estimator.tokens("new", 1000)[0] == pytest.approx(500, rel=0.05)
    for _ in range(100):
        estimator.learn("new", 1000, 100, 1000)
    assert estimator.tokens("new", 1000)[0] == pytest.approx(100, rel=0.1)
    assert estimator.tokens("old", 1000)[0] == pytest.approx(500, rel=0.05)


def test_the_ratio_follows_a_change():
    """When prompts of another language come, what was learned before fades."""
    estimator = Estimator()
    for _ in range(2000):
        estimator.learn("m", 2000, 500, 10)
    for _ in range(2000):
        estimator.learn("m", 2000, 2000, 10)
    assert estimator.tokens("m", 1000)[0] == pytest.approx(1000, rel=0.15)


def test_max_tokens_bounds_what_is_expected():
    """Nobody is expected to answer more than it may."""
    assert Estimator().tokens(None, 0, 16) == (0, 16)


def test_the_number_of_models_is_bounded():
    """Names of models that callers make up do not pile up."""
    estimator = Estimator()
    for number in range(3000):
        estimator.learn(f"model-{number}", 10, 5, 5)
    assert len(estimator._models) <= 1000


def test_what_is_not_known_teaches_nothing():
    """An answer without usage, or without a prompt to compare it with, changes nothing."""
    estimator = Estimator()
    estimator.learn("m", 0, 500, None)
    estimator.learn("m", 500, None, None)
    estimator.learn_cost("m", 0, 5.0)
    assert estimator.tokens("m", 400) == (100, 256)
    assert estimator.cost("m", 1000) == 0.0
