"""What is raised: its data, its text, and that it survives the way to another process."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from llmkit_plugins import errors
from llmkit_plugins.errors import (
    CircuitOpen,
    ConfigError,
    EmptyAnswer,
    ForeignCancel,
    LLMKitError,
    NoTarget,
    PluginFailed,
    ProviderFailure,
    RateLimited,
    Refused,
    TimedOut,
    UpstreamLost,
)

EXAMPLES = [
    LLMKitError("this kit is closed"),
    ConfigError("-1 is negative", "llmkit.toml", "targets.a.weight", "0 or more"),
    ConfigError("it implements no hook"),
    Refused("not now", 2.0),
    Refused(),
    RateLimited("60/min", "user u1", 2.5),
    RateLimited("1000 tokens"),
    CircuitOpen("gpt-mini", 30.0),
    NoTarget({"a": "dropped by eu_only.llmkit_route", "b": CircuitOpen("b", 4.0), "c": RateLimited("x", "", 3.0)}),
    NoTarget({}),
    PluginFailed("guard.llmkit_route"),
    ProviderFailure("it failed"),
    EmptyAnswer("the stream ended before it said anything"),
    TimedOut("the provider said nothing for 2 s"),
    ForeignCancel("cancelled"),
    UpstreamLost("everybody had left"),
]


def test_every_error_has_an_example():
    """An error that is added is added here too."""
    kinds = {value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)}
    assert {type(example) for example in EXAMPLES} == kinds
    assert all(issubclass(kind, LLMKitError) for kind in kinds)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("carry", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_travel(error, carry):
    """Pickled or copied, an error keeps its text and its data."""
    arrived = carry(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert repr(vars(arrived)) == repr(vars(error))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("-1 is negative", "kit.toml", "a", "0 or more"), "kit.toml: a: -1 is negative (0 or more)"),
        (ConfigError("it implements no hook", key="x"), "x: it implements no hook"),
        (Refused("not now", 2.0), "not now"),
        (RateLimited("60/min", "user u1", 2.5), "rate limit '60/min' for user u1 is used up; try again in 2.5 s"),
        (RateLimited("9 tokens"), "rate limit '9 tokens' is used up; it can never admit this call"),
        (CircuitOpen("gpt-mini", 30.0), "the circuit of 'gpt-mini' is open"),
        (NoTarget({}), "no target left: there was none to begin with"),
        (NoTarget({"a": "far", "b": CircuitOpen("b")}), "no target left: a: far; b: the circuit of 'b' is open"),
        (PluginFailed("guard.llmkit_route"), "guard.llmkit_route failed and is marked critical"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_texts(error, text):
    """The text says what a person needs: what, where, for whom, and what to do."""
    assert str(error) == text


def test_refusals_carry_data():
    """Each kind of refusal has fields for programs, and when to try again."""
    limited = RateLimited("60/min", "user u1", 2.5)
    assert (limited.limit, limited.key, limited.retry_after) == ("60/min", "user u1", 2.5)
    assert (CircuitOpen("a", 9.0).target, CircuitOpen("a", 9.0).retry_after) == ("a", 9.0)
    assert PluginFailed("guard.llmkit_route").who == "guard.llmkit_route"


def test_when_some_target_may_be_had_again():
    """``NoTarget`` may be tried again when the first of its refusals ends; unknown where none says."""
    assert NoTarget({"a": CircuitOpen("a", 9.0), "b": RateLimited("x", "", 4.0), "c": "dropped"}).retry_after == 4.0
    assert NoTarget({"a": "dropped", "b": Refused()}).retry_after is None


def test_the_reasons_are_the_errors_own():
    """Whoever changes the dict it was made of does not change the error."""
    reasons = {"a": "dropped"}
    error = NoTarget(reasons)
    reasons.clear()
    assert error.reasons == {"a": "dropped"}


def test_whom_other_code_catches():
    """A wrong setting is a ``ValueError``, a timeout a ``TimeoutError``, as everywhere in Python."""
    assert isinstance(ConfigError("x"), ValueError)
    assert isinstance(TimedOut("x"), TimeoutError)


def test_the_kinds_of_what_the_engine_itself_sees():
    """An empty answer is the server's failure, a foreign cancellation the connection's."""
    assert [kind.kind for kind in (ProviderFailure, EmptyAnswer, TimedOut, ForeignCancel)] == [
        "server",
        "server",
        "timeout",
        "connection",
    ]
