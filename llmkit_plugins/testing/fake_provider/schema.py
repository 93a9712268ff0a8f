"""A value that fits a JSON schema: what a model fills in when it calls a tool or answers in a given format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_FORMATS = {
    "date-time": "2025-01-01T00:00:00Z",
    "date": "2025-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_MAX_DEPTH = 8
"""Beyond it, optional properties and array items are left out, so that a recursive schema terminates."""


def example_of(schema: Schema) -> Any:
    """A value that fits *schema*: the same one every time, with every property of an object.

    Knows types, ``enum``, ``const``, ``$ref`` within the schema, ``anyOf``, ``oneOf``, ``allOf``, bounds, lengths, item
    counts and the usual formats; not ``pattern``, ``uniqueItems``, ``not`` and conditions.
    """
    return _Examples(schema).of(schema, 0)


class _Examples:
    def __init__(self, root: Schema) -> None:
        self._root = root

    def of(self, schema: Schema, depth: int) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        match _type_of(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return _string(schema)
            case "integer" | "number" as kind:
                return _number(schema, kind)
            case "boolean":
                return True
        return None

    def _resolved(self, schema: Schema) -> Schema:
        """*schema* with references resolved, the first alternative chosen, and ``allOf`` merged."""
        if "$ref" in schema:
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            return self._resolved({**self._referred(schema["$ref"]), **rest})
        for word in ("anyOf", "oneOf"):
            if word in schema:
                rest = {key: value for key, value in schema.items() if key != word}
                return self._resolved(_together(rest, _first_that_says_something(schema[word])))
        if "allOf" in schema:
            whole = {key: value for key, value in schema.items() if key != "allOf"}
            for part in schema["allOf"]:
                whole = _together(whole, self._resolved(part))
            return self._resolved(whole)
        return schema

    def _referred(self, reference: str) -> Schema:
        found: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            found = found[step.replace("~1", "/").replace("~0", "~")]
        resolved: Schema = found
        return resolved

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        properties: Mapping[str, Schema] = schema.get("properties", {})
        wanted = [name for name in properties if depth < _MAX_DEPTH or name in required]
        return {name: self.of(properties[name], depth + 1) for name in wanted}

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        first = [self.of(item, depth + 1) for item in schema.get("prefixItems", ())]
        least = schema.get("minItems", 0)
        count = max(least, min(1, schema.get("maxItems", 1)) if depth < _MAX_DEPTH else 0) - len(first)
        items = schema.get("items", {"type": "string"})
        return first + [self.of(items, depth + 1) for _ in range(count)] if items else first


def _first_that_says_something(alternatives: list[Schema]) -> Schema:
    return next((schema for schema in alternatives if schema.get("type") != "null"), alternatives[0])


def _together(one: Schema, other: Schema) -> dict[str, Any]:
    merged = {**one, **other}
    if "properties" in one and "properties" in other:
        merged["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        merged["required"] = [*one["required"], *other["required"]]
    return merged


def _type_of(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(kind)


def _string(schema: Schema) -> str:
    text = _FORMATS.get(schema.get("format", ""), "text")
    return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]


def _number(schema: Schema, kind: str) -> float:
    """The middle of the bounds if any number will do; else the least multiple within them, or the greatest below the
    upper."""
    low: float | None = max((schema[key] for key in ("minimum", "exclusiveMinimum") if key in schema), default=None)
    high: float | None = min((schema[key] for key in ("maximum", "exclusiveMaximum") if key in schema), default=None)
    if kind == "number" and "multipleOf" not in schema:
        return _between(low, high)
    step: float = schema.get("multipleOf", 1)
    value: float = step
    if low is not None:
        value = math.ceil(low / step) * step
        return value + step if value == schema.get("exclusiveMinimum") else value
    if high is not None:
        value = math.floor(high / step) * step
        return value - step if value == schema.get("exclusiveMaximum") else value
    return value


def _between(low: float | None, high: float | None) -> float:
    if low is not None and high is not None:
        return (low + high) / 2
    return low + 1 if low is not None else high - 1 if high is not None else 1.5
