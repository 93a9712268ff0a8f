"""Two calls have one key exactly where they are the same request: against an obviously right model of that."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from llmkit_plugins import Call
from llmkit_plugins.conventions import VOLATILE_HEADERS
from llmkit_plugins.plugins.multiplexer import MultiplexerConfig
from llmkit_plugins.plugins.multiplexer.key import VOLATILE, Keys

KEYS = Keys(MultiplexerConfig())

unhurried = settings(deadline=None, max_examples=300)

# few values, so that calls are often alike, and values that are easily taken for each other
atoms = st.sampled_from(
    [None, True, False, 0, 1, -1, 2**70, 0.0, 1.0, 0.5, "", "a", "b", "1", "role", "user", b"", b"a", "é\ud800"]
)
texts = st.sampled_from(["", "a", "b", "user", "é"])
values = st.recursive(
    atoms, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
plain_messages = st.fixed_dictionaries({"role": texts, "content": texts})
messages = (
    st.none()
    | texts
    | st.lists(plain_messages, max_size=3)
    | st.lists(
        plain_messages | values | st.dictionaries(st.sampled_from(["role", "content", "name"]), values), max_size=3
    )
)
calls = st.fixed_dictionaries(
    {},
    optional={
        "messages": messages,
        "model": st.none() | texts,
        "operation": st.sampled_from(["chat", "embeddings"]),
        "tenant": st.none() | texts,
        "params": st.dictionaries(
            st.sampled_from(["temperature", "tools", "stop", "response_format"]), values, max_size=3
        ),
        "metadata": st.fixed_dictionaries({}, optional={"credential": st.none() | texts}),
    },
)


def key(call: dict[str, Any]) -> bytes:
    return KEYS.of(Call(**call))


def meaning(value: Any) -> Any:
    """Slow and obviously right: what *value* says, so that equal meanings are equal and others are not."""
    if isinstance(value, dict):
        return "mapping", frozenset((name, meaning(inner)) for name, inner in value.items())
    if isinstance(value, list):
        return "sequence", tuple(meaning(inner) for inner in value)
    return type(value).__name__, repr(value)


def without_none(value: Any) -> Any:
    return {name: inner for name, inner in value.items() if inner is not None} if isinstance(value, dict) else value


def request(call: dict[str, Any]) -> Any:
    asked = call.get("messages")
    return meaning(
        [
            call.get("operation", "chat"),
            call.get("model"),
            call.get("tenant"),
            call.get("metadata", {}).get("credential"),
            [without_none(message) for message in asked] if isinstance(asked, list) else asked,
            without_none(call.get("params", {})),
        ]
    )


def rebuilt(value: Any, chance: random.Random) -> Any:
    """The same of other objects, with mappings in another order."""
    if isinstance(value, dict):
        items = [(rebuilt(name, chance), rebuilt(inner, chance)) for name, inner in value.items()]
        chance.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return [rebuilt(inner, chance) for inner in value]
    if isinstance(value, str):
        return "".join([value[:1], value[1:]])
    return value


def changed(value: Any, chance: random.Random) -> Any:
    """Something else in one place."""
    if isinstance(value, dict) and value:
        name = chance.choice([*value])
        return {**value, name: changed(value[name], chance)}
    if isinstance(value, list) and value:
        place = chance.randrange(len(value))
        return [*value[:place], changed(value[place], chance), *value[place + 1 :]]
    return chance.choice([{"new": value}, [value, value], "something else", 7])


@unhurried
@given(calls, calls)
@example({"messages": ["user", "a"]}, {"messages": [{"role": "user", "content": "a"}]})
@example(
    {"messages": [{"role": "user", "content": "a"}]}, {"messages": [{"role": "user", "content": "a", "name": None}]}
)
@example({"params": {"tools": {"a": None}}}, {"params": {"tools": {}}})
@example({"params": {"stop": [["a"], ["b"]]}}, {"params": {"stop": {"a": "b"}}})
def test_equal_keys_are_equal_requests(one: dict[str, Any], other: dict[str, Any]) -> None:
    """No two requests that differ share a key, and no two that are the same differ in it."""
    assert (key(one) == key(other)) == (request(one) == request(other))


@unhurried
@given(calls, st.randoms(use_true_random=False))
def test_the_order_and_the_objects_do_not_matter(call: dict[str, Any], chance: random.Random) -> None:
    """The same content, built anew with mappings in another order, has the same key."""
    assert key(rebuilt(call, chance)) == key(call)


@unhurried
@given(calls, st.randoms(use_true_random=False))
def test_any_change_matters(call: dict[str, Any], chance: random.Random) -> None:
    """Something else at any one place of messages or parameters is another request."""
    call = {"messages": [{"role": "user", "content": "a"}], "params": {"stop": ["a"]}, **call}
    field = chance.choice(["messages", "params"])
    other = {**call, field: changed(call[field], chance)}
    if isinstance(other[field], dict) == isinstance(call[field], dict):
        assert (key(other) == key(call)) == (request(other) == request(call))


@unhurried
@given(calls, st.dictionaries(st.sampled_from(sorted(VOLATILE)), st.just(object())))
def test_what_is_volatile_does_not_matter(call: dict[str, Any], volatile: dict[str, Any]) -> None:
    """Whatever objects they are: ids, callbacks, timeouts, metadata; nor do parameters that are None."""
    params = {**call.get("params", {}), **volatile, "never_given": None}
    metadata = {**call.get("metadata", {}), "run_id": object()}
    assert key({**call, "params": params, "metadata": metadata, "user": "ann", "id": "1"}) == key(call)


@unhurried
@given(calls, st.sets(st.sampled_from(sorted(VOLATILE_HEADERS))), st.booleans())
def test_trace_headers_do_not_matter(call: dict[str, Any], volatile: set[str], upper: bool) -> None:
    """However they are written; other headers do."""
    headers = {name.upper() if upper else name: "1" for name in volatile}

    def sent(**more: str) -> bytes:
        return key({**call, "params": {**call.get("params", {}), "extra_headers": {**headers, **more}}})

    assert sent() == key(call)
    assert sent(authorization="a") != sent(authorization="b")


class Message(BaseModel):
    content: Any
    name: str | None = None
    additional_kwargs: dict[str, Any] = {}
    response_metadata: dict[str, Any] = {}
    id: str | None = None


@unhurried
@given(values, values, st.none() | texts, st.none() | texts)
def test_message_objects(one: Any, other: Any, id: str | None, other_id: str | None) -> None:
    """Their ids do not matter, and all else does."""
    first = key({"messages": [Message(content=one, id=id)]})
    second = key({"messages": [Message(content=other, id=other_id)]})
    assert (first == second) == (meaning(one) == meaning(other))
