"""The words: what their figures mean."""

from __future__ import annotations

import os
import re
from decimal import Decimal

import pytest

from llmkit_plugins import Attempt, Call, ConfigError, Response, Target, Usage
from llmkit_plugins.call import new_id


@pytest.fixture
def target():
    """A dollar a million input tokens, ten cents where they come from the cache, four dollars a million out."""
    return Target("a", "openai", "gpt", input_price=1.0, output_price=4.0, cached_price=0.1)


def test_ids_are_unique():
    """Each call has an id of its own, and a given one is kept."""
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert Call().id not in ids
    assert Call(id="mine").id == "mine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_ids_of_its_own():
    """Two processes that came out of one do not count on with the same ids."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs, ours = os.read(reading, 100).decode(), new_id()
    os.close(reading)
    os.close(writing)
    assert len(theirs) == len(ours) == 20
    assert theirs[:12] != ours[:12]


def test_total_tokens():
    """Cached and reasoning tokens are parts of the input and the output, not beside them."""
    assert Usage(input_tokens=10, output_tokens=5, cached_tokens=8, reasoning_tokens=3).total_tokens == 15


@pytest.mark.parametrize("field", ["input_price", "output_price", "cached_price", "weight"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "0.15", Decimal("0.15")])
def test_a_price_that_is_none(field, value):
    """It is refused with the key that is wrong."""
    with pytest.raises(ConfigError, match=rf"targets.a.{field}: {re.escape(repr(value))} is not valid \(a number"):
        Target("a", "p", "m", **{field: value})


def test_cost(target):
    """Tokens from the cache are charged at their own price, the rest of the input at the usual one."""
    assert target.cost(Usage(1_000_000, 500_000, cached_tokens=400_000)) == pytest.approx(0.6 + 0.04 + 2.0)


def test_cost_without_a_price_for_cached_tokens():
    """They are charged as any input."""
    assert Target("a", "p", "m", input_price=1.0, output_price=0.0).cost(Usage(1_000_000, 5, 900_000)) == 1.0


@pytest.mark.parametrize("prices", [{}, {"input_price": 1.0}, {"output_price": 1.0}])
def test_unknown_prices(prices):
    """Where a price that matters is unknown so is the cost; free is not unknown."""
    assert Target("a", "p", "m", **prices).cost(Usage(1, 1)) is None
    assert Target("a", "p", "m", input_price=0.0, output_price=0.0).cost(Usage(1, 1)) == 0.0


def test_the_price_of_what_there_is_none_of():
    """It does not matter: embeddings have a cost though nobody gives them an output price."""
    assert Target("a", "p", "m", input_price=2.0).cost(Usage(1_000_000, 0)) == 2.0
    assert Target("a", "p", "m", output_price=2.0).cost(Usage(0, 0)) is None


def test_the_cost_of_an_attempt(target):
    """By the target's prices; where it has none, as the framework reported it; before the usage is known, neither."""
    priced, unpriced = Attempt(1, target), Attempt(1, Target("b", "p", "m"))
    assert priced.cost is unpriced.cost is None
    priced.usage = unpriced.usage = Usage(1_000_000, 0)
    priced.reported_cost = unpriced.reported_cost = 0.25
    assert (priced.cost, unpriced.cost) == (1.0, 0.25)


def test_times_of_an_attempt(target):
    """The duration leaves the reader's pauses out; there is none before it was sent, or before its end."""
    attempt = Attempt(1, target)
    assert (attempt.duration, attempt.time_to_first_chunk) == (None, None)
    attempt.started = 10.0
    assert (attempt.duration, attempt.time_to_first_chunk) == (None, None)
    attempt.first_chunk, attempt.finished, attempt.paused_seconds = 10.5, 14.0, 3.0
    assert (attempt.duration, attempt.time_to_first_chunk) == (1.0, 0.5)


def test_a_duration_is_never_below_zero():
    """Pauses are added up one by one: rounding may make them longer than all of it."""
    attempt = Attempt(1, Target("a", "p", "m"), started=0.0, finished=0.3)
    attempt.paused_seconds = 0.1 + 0.2
    assert attempt.duration == 0.0


def test_a_response_of_ones_own(target):
    """It costs what its attempt cost, and tells the model that answered, by the provider's word where it said."""
    attempt = Attempt(1, target, usage=Usage(1_000_000, 0), finish_reason="stop")
    response = Response("raw", attempt)
    assert (response.cost, response.usage, response.model, response.finish_reason) == (
        1.0,
        attempt.usage,
        "gpt",
        "stop",
    )
    attempt.model = "gpt-2024"
    assert response.model == "gpt-2024"


def test_a_shared_response(target):
    """It tells whose answer it is and what that used, and costs nothing."""
    response = Response("raw", Attempt(1, target, usage=Usage(1_000_000, 0)), shared="other")
    assert (response.cost, response.usage.total_tokens) == (0.0, 1_000_000)


def test_a_response_without_an_attempt():
    """A plugin's answer costs nothing and has no usage, model or finish reason."""
    response = Response("raw")
    assert (response.cost, response.usage, response.model, response.finish_reason) == (0.0, None, None, None)


def test_prompts_stay_out_of_sight():
    """What a call says of itself in a log has neither its prompt nor what the application attached, nor an answer."""
    secret = "the secret"
    call = Call(messages=secret, params={"tools": secret}, metadata={"note": secret})
    call.response = Response(raw=secret)
    call.state["plugin"] = secret
    assert secret not in repr(call)


def test_words_are_compared_by_identity(target):
    """Two equal-looking calls, targets, attempts are two, and can be keys."""
    assert len({Call(id="x"), Call(id="x"), Attempt(1, target), Attempt(1, target), target}) == 5
