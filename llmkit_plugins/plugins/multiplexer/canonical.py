"""Anything a call may carry, as a plain tree: equal trees mean the same to a provider, whatever their original order.

Atoms stay as they are. A sequence becomes a list; a mapping a tuple of two, its sorted keys and its values; an object
with fields (pydantic's) a tuple of four: its class, its fields, their values and any extra ones; a class a tuple of
one, its serial number in this process. So no two kinds can be confused, and ``marshal`` writes each tree in only one
way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from llmkit_plugins.conventions import ROUTE_TAKEN

ATOMS = frozenset({str, int, float, bool, bytes, type(None)})
_EMPTY: tuple[Any, ...] = ((), [])

_EXACTLY: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: bytes.__bytes__,
    bytearray: bytes,
}
_serials: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_next_serial = count(1)


class Layout(NamedTuple):
    """The structure of the objects of one class."""

    name: str
    """The class."""
    fields: tuple[str, ...]
    """The fields that may mean something to a provider."""
    message: bool
    """Whether they are LangChain messages, or similar."""


class Unknown(TypeError):
    """It is unknown what this value means to a provider."""

    def __init__(self, kind: type) -> None:
        super().__init__(f"nobody knows what a {kind.__qualname__} means")


def plain(value: Any) -> Any:
    """*value* as a tree. Raises ``Unknown``, or ``TypeError`` if keys cannot be sorted."""
    kind: Any = type(value)
    if kind in ATOMS:
        return value
    if kind is dict:
        return plain_mapping(value)
    if kind is list or kind is tuple:
        return plain_all(value)
    if (layout := layout_of(kind)) is not None:
        return plain_object(value, layout)
    return _plain_rarity(value)


def plain_all(values: Iterable[Any]) -> list[Any]:
    """Each of *values* as a tree."""
    return [value if type(value) in ATOMS else plain(value) for value in values]


def plain_mapping(mapping: Mapping[Any, Any]) -> tuple[Any, ...]:
    """*mapping* as a tree."""
    if not mapping:
        return _EMPTY
    names, values = sorted(mapping), []
    for name in names:
        value = mapping[name]
        values.append(value if type(value) in ATOMS else plain(value))
    return tuple(names), values


def plain_object(value: Any, layout: Layout) -> tuple[Any, ...]:
    """A pydantic object as a tree, by the *layout* of its class."""
    name, fields, message = layout
    values, extra = value.__dict__, value.__pydantic_extra__
    if message and ROUTE_TAKEN in (told := values.get("response_metadata") or ()):
        values = {**values, "response_metadata": {word: told[word] for word in told if word != ROUTE_TAKEN}}
    return name, fields, plain_all(map(values.get, fields)), plain_mapping(extra) if extra else None


@lru_cache(256)
def layout_of(kind: type) -> Layout | None:
    """The layout of a pydantic class; None for any other. It omits the ids of LangChain messages, which say nothing."""
    fields = getattr(kind, "__pydantic_fields__", None)
    if fields is None or not hasattr(kind, "__pydantic_extra__"):
        return None
    message = {"additional_kwargs", "response_metadata"} <= set(fields)
    names = tuple(name for name in fields if not (message and name == "id"))
    return Layout(f"{kind.__module__}.{kind.__qualname__}", names, message)


def identity(value: Any) -> tuple[int]:
    """A class or function as a tree: equal only to itself, for the lifetime of the process."""
    return (_serials.setdefault(value, next(_next_serial)),)


def _plain_rarity(value: Any) -> Any:
    if isinstance(value, Enum):
        return plain(value.value)
    for base, exactly in _EXACTLY.items():
        if isinstance(value, base):
            return exactly(value)
    if isinstance(value, type):
        return identity(value)
    if isinstance(value, Mapping):
        return plain_mapping(value)
    if isinstance(value, list | tuple):
        return plain_all(value)
    raise Unknown(type(value))
