"""The parts of the fake provider that need no server: examples of schemas, pace, capacity, limits, options."""

from __future__ import annotations

import asyncio
import signal
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit_plugins.errors import ConfigError
from llmkit_plugins.testing.fake_provider import Behaviour, Constant, FakeProvider, LogNormal, Uniform
from llmkit_plugins.testing.fake_provider.allowance import Allowance
from llmkit_plugins.testing.fake_provider.api_error import duration
from llmkit_plugins.testing.fake_provider.capacity import Capacity
from llmkit_plugins.testing.fake_provider.command import main
from llmkit_plugins.testing.fake_provider.order import count_tokens, tokens_of
from llmkit_plugins.testing.fake_provider.pace import Pace
from llmkit_plugins.testing.fake_provider.schema import example_of

NODE = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            },
            "required": ["name"],
        }
    },
    "$ref": "#/$defs/Node",
}


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        ({"const": 7}, 7),
        ({"enum": ["red", "green"]}, "red"),
        ({"type": "string", "format": "date"}, "2025-01-01"),
        ({"type": "string", "maxLength": 2}, "te"),
        ({"type": ["null", "boolean"]}, True),
        ({"type": "null"}, None),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, 1),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, "text"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, [1, 1, 1]),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 0}, []),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": "a"}], "items": False}, [1, "a"]),
        ({"type": "array"}, ["text"]),
        ({"properties": {"a": {"properties": {"b": {"type": "boolean"}}}}}, {"a": {"b": True}}),
        (
            {"allOf": [{"properties": {name: {"const": name}}, "required": [name]} for name in "ab"]},
            {"a": "a", "b": "b"},
        ),
        ({"anyOf": [{"properties": {"a": {"const": 1}}}], "properties": {"b": {"const": 2}}}, {"b": 2, "a": 1}),
        ({"$defs": {"a/b": {"const": 1}}, "properties": {"x": {"$ref": "#/$defs/a~1b"}}}, {"x": 1}),
        ({}, "text"),
    ],
)
def test_example_of_a_schema(schema, example):
    """An example says the plainest thing that the schema allows."""
    assert example_of(schema) == example


def test_example_of_a_schema_that_contains_itself():
    """A schema that contains itself has an example, which ends."""
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(example_of(NODE), NODE)


def _bounds(draw: Any, low: str, high: str, values: st.SearchStrategy[Any]) -> dict[str, Any]:
    bounds = sorted(draw(st.lists(values, min_size=2, max_size=2)))
    chosen = dict(zip((low, high), bounds, strict=True))
    return {key: value for key, value in chosen.items() if draw(st.booleans())}


@st.composite
def _leaves(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(["string", "integer", "number", "exclusive", "boolean", "multiple"]))
    match kind:
        case "string":
            return {"type": "string", **_bounds(draw, "minLength", "maxLength", st.integers(0, 20))}
        case "integer":
            return {"type": "integer", **_bounds(draw, "minimum", "maximum", st.integers(-50, 50))}
        case "number":
            return {"type": "number", **_bounds(draw, "minimum", "maximum", st.floats(-5, 5))}
        case "exclusive":
            low = draw(st.integers(-50, 50))
            limits = [
                {"exclusiveMinimum": low},
                {"exclusiveMaximum": low},
                {"exclusiveMinimum": low, "exclusiveMaximum": low + 2},
            ]
            return {"type": draw(st.sampled_from(["integer", "number"])), **draw(st.sampled_from(limits))}
        case "multiple":
            return {"type": "integer", "multipleOf": draw(st.integers(1, 9)), "minimum": draw(st.integers(-50, 50))}
    return {"type": "boolean"}


def _compound(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(["a", "b", "c"])
    objects = st.dictionaries(names, inner).map(
        lambda found: {"type": "object", "properties": found, "required": list(found)}
    )
    arrays = st.builds(
        lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 3)
    )
    choices = st.lists(inner, min_size=1, max_size=2).map(lambda found: {"anyOf": found})
    return objects | arrays | choices


@given(st.recursive(_leaves(), _compound, max_leaves=6))
def test_examples_fit_their_schemas(schema):
    """Whatever the schema, its example is valid."""
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(example_of(schema), schema)


@given(st.text())
def test_tokens_are_words(text):
    """There is a token for each word, and together they are the text; a text of spaces alone has none."""
    tokens = tokens_of(text)
    assert len(tokens) == len(text.split())
    assert "".join(tokens) == (text if text.strip() else "")


def test_prompt_tokens_are_counted_wherever_they_are():
    """Texts, messages, parts of messages and token ids count; images and empty contents do not."""
    parts = [{"type": "text", "text": "three more words"}, {"type": "image_url", "image_url": {"url": "a b c"}}]
    assert count_tokens([{"role": "user", "content": "two words"}, {"role": "user", "content": parts}]) == 5
    assert count_tokens([{"role": "assistant", "content": None}]) == 0
    assert count_tokens([[1, 2], [3]]) == 3


async def test_pace_adds_up():
    """The first token is due after its latency, each following one after the one before."""
    assert Pace(Behaviour(first_token_seconds=2, per_token_seconds=0.5), Random(1), 4).due_seconds == [2, 2.5, 3, 3.5]
    assert Pace(Behaviour(first_token_seconds=2, per_token_seconds=0.5), Random(1), 0).due_seconds == [2]


async def test_pace_is_drawn_from_the_seed():
    """The same chance gives the same pace, with any distribution."""
    slow = Behaviour(first_token_seconds=LogNormal(0.3, 0.5), per_token_seconds=Uniform(0.01, 0.02))
    first, same, other = (Pace(slow, Random(seed), 20).due_seconds for seed in (1, 1, 2))
    assert first == same != other


@given(st.integers())
def test_distributions(seed):
    """A constant never varies, a uniform stays within its bounds, a log-normal is never negative."""
    random = Random(seed)
    assert Constant(1.5).sample(random) == 1.5
    assert 1 <= Uniform(1, 2).sample(random) <= 2
    assert LogNormal(0.5, 1).sample(random) > 0


def test_half_of_a_log_normal_is_below_its_median():
    """The median is what it says."""
    random = Random(0)
    below = sum(LogNormal(0.5, 1).sample(random) < 0.5 for _ in range(2000))
    assert 900 < below < 1100


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Constant(-1), "seconds"),
        (lambda: Uniform(-1, 1), "low_seconds"),
        (lambda: Uniform(2, 1), "high_seconds"),
        (lambda: LogNormal(float("inf"), 1), "median_seconds"),
        (lambda: LogNormal(1, -1), "sigma"),
    ],
)
def test_distributions_that_cannot_be(make, key):
    """A distribution that makes no sense is an error that names the argument."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.key == key


async def _enter(capacity: Capacity, log: list[str], name: str) -> None:
    async with capacity:
        log.append(name)
        await asyncio.get_running_loop().create_future()


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_capacity_is_first_come_first_served():
    """Those who wait are let in in the order they came, also when one of them gives up."""
    log: list[str] = []
    told: list[tuple[int, int]] = []
    capacity = Capacity(lambda inside, waiting: told.append((inside, waiting)))
    capacity.limit = 1
    tasks = {name: asyncio.create_task(_enter(capacity, log, name)) for name in "abcd"}
    await _settle()
    assert (log, told[-1]) == (["a"], (1, 3))
    for leaver, inside in (("b", "a"), ("a", "ac"), ("c", "acd")):
        tasks[leaver].cancel()
        await _settle()
        assert log == list(inside)
    tasks["d"].cancel()
    await _settle()
    assert told[-1] == (0, 0)


async def test_capacity_is_not_lost_by_who_leaves_at_the_door():
    """One who is let in and gives up in the same moment leaves the place to the next."""
    log: list[str] = []
    capacity = Capacity(lambda inside, waiting: None)
    capacity.limit = 1
    tasks = {name: asyncio.create_task(_enter(capacity, log, name)) for name in "abc"}
    await _settle()
    tasks["a"].cancel()
    await asyncio.sleep(0)
    tasks["b"].cancel()
    await _settle()
    assert log[-1] == "c"
    tasks["c"].cancel()
    await _settle()


async def test_capacity_passes_over_those_who_have_given_up():
    """The door is not opened for one who gave up a moment before."""
    log: list[str] = []
    capacity = Capacity(lambda inside, waiting: None)
    capacity.limit = 1
    tasks = {name: asyncio.create_task(_enter(capacity, log, name)) for name in "abc"}
    await _settle()
    tasks["a"].cancel()
    tasks["b"].cancel()
    await _settle()
    assert log == ["a", "c"]
    tasks["c"].cancel()
    await _settle()


def test_allowance_refills_evenly():
    """A limit of 60 a minute gives one back each second, and never more than there were."""
    allowance = Allowance("requests", 60, now=0)
    allowance.take(60)
    assert allowance.wait(1, now=0) == pytest.approx(1)
    assert allowance.wait(1, now=0.75) == pytest.approx(0.25)
    assert allowance.wait(1, now=1) == 0
    assert allowance.headers(now=30) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "30",
        "x-ratelimit-reset-requests": "30s",
    }
    assert allowance.headers(now=1000)["x-ratelimit-remaining-requests"] == "60"


def test_allowance_for_more_than_there_can_be():
    """What is larger than the whole limit waits until the limit is untouched, not for ever."""
    allowance = Allowance("tokens", 60, now=0)
    assert allowance.wait(1000, now=0) == 0
    allowance.take(30)
    assert allowance.wait(1000, now=0) == pytest.approx(30)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3605, "1h0m5s"),
    ],
)
def test_durations(seconds, told):
    """Durations are written as OpenAI writes them."""
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--latency", "soon"], "not a latency"),
        (["--latency", "normal:1,2"], "not a latency"),
        (["--per-token", "uniform:2,1"], "high_seconds"),
        (["--fault", "explode"], "one of rate_limit"),
        (["--fault", "stall,when=1"], "'when' is not an option"),
        (["--fault", "rate_limit,on=x"], "invalid literal"),
        (["--max-in-flight", "0"], "max_in_flight"),
        (["--port", "70000"], "0 to 65535"),
    ],
)
def test_options_that_cannot_be_used(capsys, arguments, message):
    """A wrong option ends the command with what is wrong and what would be right."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_from_a_shell(capsys, monkeypatch):
    """A port that somebody else listens on ends the command with status 1 and the reason."""
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    with FakeProvider() as provider:
        assert main(["--port", provider.url.split(":")[2].removesuffix("/v1")]) == 1
    printed = capsys.readouterr()
    assert (printed.out, "in use" in printed.err) == ("", True)
