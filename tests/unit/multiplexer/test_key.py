"""Which calls are the same request, and which are nobody else's."""

from __future__ import annotations

import enum
import sys
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, ConfigDict

from llmkit_plugins import Call
from llmkit_plugins.plugins.multiplexer import MultiplexerConfig
from llmkit_plugins.plugins.multiplexer.key import Alone, Keys

ASKED = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
KEYS = Keys(MultiplexerConfig())


def key(messages: Any = ASKED, keys: Keys = KEYS, **call: Any) -> bytes:
    return keys.of(Call(messages, **{"model": "m", **call}))


def with_params(**params: Any) -> bytes:
    return key(params=params)


class Role(enum.StrEnum):
    USER = "user"


class Text(str):
    __slots__ = ()


class Point(NamedTuple):
    x: int


class Weather(BaseModel):
    city: str


class Message(BaseModel):
    """Built like those of LangChain."""

    model_config = ConfigDict(extra="allow")
    content: Any
    type: str = "human"
    additional_kwargs: dict[str, Any] = {}
    response_metadata: dict[str, Any] = {}
    id: str | None = None


def answer(**told: Any) -> Message:
    return Message(content="hi", response_metadata=told)


class OtherMessage(Message):
    """What says who speaks by its class."""


class Messages(list[Any]):
    """A conversation of a framework's own."""


class Item(BaseModel):
    """Built like those of OpenAI's responses: its id says which one it is."""

    type: str
    id: str


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (key(), key([{"content": m["content"], "role": m["role"]} for m in ASKED])),
        (key(), key(tuple(ASKED))),
        (key(), key(Messages(ASKED))),
        (key(), key([dict(m, name=None) for m in ASKED])),
        (key([{"role": "user", "content": "hi"}]), key([{"role": Role.USER, "content": Text("hi")}])),
        (with_params(temperature=0, top_p=1), with_params(top_p=1, temperature=0)),
        (with_params(), with_params(temperature=None)),
        (with_params(tools=[TOOL]), with_params(tools=(dict(reversed(TOOL.items())),))),
        (with_params(tools=[TOOL]), with_params(tools=[MappingProxyType(TOOL)])),
        (with_params(a=bytearray(b"x")), with_params(a=b"x")),
        (with_params(a=Point(1)), with_params(a=[1])),
        (key([Message(content="hi", id="1")]), key([Message(content="hi", id="2")])),
        (key([Message(content="hi", extra=1)]), key([Message(extra=1, content="hi")])),
        (key([answer(id="r", llmkit={"shared": False})]), key([answer(id="r", llmkit={"shared": True})])),
        (key([answer(llmkit={"shared": False})]), key([answer()])),
    ],
    ids=range(15),
)
def test_the_same_request(one: bytes, other: bytes) -> None:
    """Order, absent or None, and the type a text happens to have make no difference."""
    assert one == other


@pytest.mark.parametrize(
    "volatile",
    [
        {"timeout": 3},
        {"request_id": "r"},
        {"callbacks": [print]},
        {"metadata": {"x": 1}},
        {"max_retries": 2},
        {"user": "ann"},
        {"extra_headers": {"Traceparent": "00-1", "X-Request-ID": "7", "x-stainless-retry-count": "1"}},
    ],
)
def test_what_is_different_each_time(volatile: dict[str, Any]) -> None:
    """Request ids, trace headers, callbacks, timeouts and metadata make no difference."""
    assert with_params(**volatile) == with_params()
    assert with_params(**volatile, temperature=0) == with_params(temperature=0)
    assert key(metadata={"run_id": 1}, user="ann", id="2", timeout_seconds=3.0) == key(user="bob")


ALL_DIFFERENT: dict[str, bytes] = {
    "plain": key(),
    "model": key(model="other"),
    "no model": key(model=None),
    "operation": key(operation="text_completion"),
    "tenant": key(tenant="t"),
    "credential": key(metadata={"credential": "one"}),
    "other credential": key(metadata={"credential": "other"}),
    "where to": key(metadata={"route": {"only": ["eu"]}}),
    "elsewhere": key(metadata={"route": {"only": ["us"]}}),
    "text": key([{"role": "user", "content": "ho"}]),
    "role": key([{"role": "assistant", "content": "ho"}]),
    "name": key([{"role": "user", "content": "ho", "name": "ann"}]),
    "order": key(ASKED[::-1]),
    "prefix": key(ASKED[:1]),
    "one text": key("be brief"),
    "a list of texts": key(Messages(["system", "be brief"])),
    "texts": key(["system", "be brief", "user", "hi"]),
    "bytes": key([b"be brief"]),
    "tokens": key([[1, 2, 3]]),
    "nobody": key(None),
    "no message": key([]),
    "image": key([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,a"}}]}]),
    "other image": key([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,b"}}]}]),
    "seven": with_params(x=7),
    "true": with_params(x=True),
    "one": with_params(x=1),
    "one and a half": with_params(x=1.5),
    "a text 7": with_params(x="7"),
    "a list": with_params(x=["7"]),
    "a list in a list": with_params(x=[["7"]]),
    "a mapping": with_params(x={"7": "7"}),
    "a pair": with_params(x=[["7"], ["7"]]),
    "none within": with_params(x={"default": None}),
    "nothing within": with_params(x={}),
    "no list": with_params(x=[]),
    "another name": with_params(y=7),
    "temperature": with_params(temperature=0.5),
    "format": with_params(response_format={"type": "json_object"}),
    "form": with_params(response_format=Weather),
    "tools": with_params(tools=[TOOL]),
    "tools that are none": with_params(tools="weather"),
    "class tools": with_params(tools=[Weather]),
    "function tools": with_params(tools=[with_params]),
    "other function": with_params(tools=[key]),
    "more tools": with_params(tools=[TOOL, TOOL]),
    "tool choice": with_params(tools=[TOOL], tool_choice="none"),
    "header": with_params(extra_headers={"authorization": "one"}),
    "other header": with_params(extra_headers={"Authorization": "other"}),
    "headers that are none": with_params(extra_headers=["authorization"]),
    "object": key([Message(content="hi")]),
    "object's text": key([Message(content="ho")]),
    "object's extra": key([Message(content="hi", extra=1)]),
    "object's kwargs": key([Message(content="hi", additional_kwargs={"x": 1})]),
    "object's metadata": key([answer(id="r")]),
    "object of another class": key([OtherMessage(content="hi")]),
    "item": key([Item(type="item_reference", id="1")]),
    "other item": key([Item(type="item_reference", id="2")]),
}


def test_different_requests() -> None:
    """Whatever can change the answer, or who may see it, changes the key."""
    assert len(set(ALL_DIFFERENT.values())) == len(ALL_DIFFERENT)


def test_two_classes_of_one_name() -> None:
    """A class is like nothing but itself: it may look the same and mean something else."""

    def made(kind: type) -> type[BaseModel]:
        class Answer(BaseModel):
            __annotations__ = {"value": kind}

        return Answer

    first, second = made(int), made(str)
    assert with_params(response_format=first) == with_params(response_format=first)
    assert with_params(response_format=first) != with_params(response_format=second)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ({"metadata": {"share": False}}, "marked"),
        ({"metadata": {"share": 0}}, "marked"),
        ({"metadata": {"cache": {"no-cache": True}}}, "marked"),
        ({"metadata": {"cache": {"no-store": True}}}, "marked"),
        ({"metadata": {"cache": "no-cache"}}, "marked"),
        ({"metadata": {"cache": False}}, "marked"),
        ({"metadata": {"no-cache": True}}, "marked"),
        ({"metadata": {"no-store": True}}, "marked"),
        ({"params": {"cache": {"no-cache": True}}}, "marked"),
        ({"params": {"extra_headers": {"Cache-Control": "max-age=0, no-cache"}}}, "headers"),
        ({"params": {"n": 2}}, "several"),
        ({"operation": "execute_tool"}, "execute_tool"),
        ({"params": {"client": object()}}, "object"),
        ({"params": {"hook": print}}, "builtin_function"),
        ({"params": {"hook": key}}, "function"),
        ({"params": {"stop": {"a", "b"}}}, "set"),
        ({"params": {"x": {1: 1, "1": 1}}}, "TypeError"),
        ({"messages": iter(ASKED)}, "list_iterator"),
        ({"messages": [{"role": "user", "content": object()}]}, "object"),
    ],
)
def test_never_shared(call: dict[str, Any], why: str) -> None:
    """A call that asks for it, wants several answers, may do more than answer, or cannot be understood, goes alone."""
    with pytest.raises(Alone, match=why):
        KEYS.of(Call(**{"messages": ASKED, **call}))


@pytest.mark.parametrize("metadata", [{"share": True}, {"share": None}, {"cache": {"ttl": 5}}, {"cache": True}])
def test_no_mark(metadata: dict[str, Any]) -> None:
    """What only looks like a mark is none."""
    assert key(metadata=metadata) == key()


def test_a_conversation_without_end() -> None:
    """One that contains itself goes alone."""
    content: list[Any] = []
    content.append(content)
    with pytest.raises(Alone):
        key([{"role": "user", "content": content}])


def test_users_on_their_own() -> None:
    """With scope user each user has keys of his own, and who is not known goes alone."""
    keys = Keys(MultiplexerConfig(scope="user"))
    assert key(keys=keys, user="ann") == key(keys=keys, user="ann")
    assert key(keys=keys, user="ann") != key(keys=keys, user="bob")
    assert key(keys=keys, user="ann", params={"user": "x"}) != key(keys=keys, user="ann", params={"user": "y"})
    with pytest.raises(Alone, match="user"):
        key(keys=keys)


@pytest.mark.parametrize(
    ("params", "shared"),
    [
        ({}, False),
        ({"temperature": 0.7}, False),
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"seed": 7}, True),
        ({"temperature": 1, "seed": 7}, True),
        ({"temperature": "hot"}, False),
    ],
)
def test_sampled_answers(params: dict[str, Any], shared: bool) -> None:
    """Where sampled answers are not shared, a temperature above 0 without a seed goes alone; none given is above 0."""
    keys = Keys(MultiplexerConfig(share_sampled=False))
    if shared:
        assert key(keys=keys, params=params)
    else:
        with pytest.raises(Alone):
            key(keys=keys, params=params)
    assert key(keys=keys, operation="embeddings")


def test_more_that_is_ignored_or_matters() -> None:
    """Settings name further parameters that do not matter, and metadata that does."""
    keys = Keys(MultiplexerConfig(ignored_params={"logger"}, metadata_keys={"region"}))
    assert key(keys=keys, params={"logger": print}) == key(keys=keys)
    assert key(keys=keys, metadata={"region": "eu"}) != key(keys=keys, metadata={"region": "us"})
    assert key(keys=keys, metadata={"other": "eu"}) == key(keys=keys)


def test_nothing_can_be_read_in_it() -> None:
    """A key is a hash of fixed length, and a reason to go alone names no value."""
    assert len(key([{"role": "user", "content": "secret " * 1000}])) == 32
    with pytest.raises(Alone) as reason:
        with_params(client=object(), x="secret")
    assert "secret" not in str(reason.value)


def test_texts_that_are_the_same_object_or_not() -> None:
    """Neither interned texts nor objects that occur twice make a difference."""
    text = "".join(["never ", "interned"])
    again = "".join(["never ", "interned"])
    twice = [{"role": "user", "content": text}, {"role": "user", "content": text}]
    apart = [{"role": sys.intern("user"), "content": text}, {"role": "".join("user"), "content": sys.intern(again)}]
    assert key(twice) == key(apart)
