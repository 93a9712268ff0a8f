"""The settings as a JSON schema, so that an editor can complete and check them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema

from llmkit_plugins.discovery import Found
from llmkit_plugins.kit_settings import KitSettings
from llmkit_plugins.settings import Settings

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = {"type": "string", "pattern": r"\$\{"}


def settings_schema(found: Iterable[Found]) -> dict[str, Any]:
    """JSON schema of a whole settings file: the kit's own settings and a table for each of the plugins *found*."""
    tables = {one.name: one.settings for one in found if one.plugin}
    models: list[type[Settings]] = [KitSettings, *tables.values()]
    places, shared = models_json_schema([(model, "validation") for model in models], schema_generator=_WithReferences)
    definitions = shared["$defs"]
    schema: dict[str, Any] = definitions.pop(places[KitSettings, "validation"]["$ref"].rpartition("/")[2])
    for name, model in tables.items():
        schema["properties"][name] = places[model, "validation"]
    return {"$schema": _DIALECT, **schema, "title": "llmkit.toml", "$defs": definitions}


class _WithReferences(GenerateJsonSchema):
    """Also allows ``${NAME}`` in place of a number, a boolean or an enumerated word."""

    def int_schema(self, schema: Any) -> JsonSchemaValue:
        return _or_reference(super().int_schema(schema))

    def float_schema(self, schema: Any) -> JsonSchemaValue:
        return _or_reference(super().float_schema(schema))

    def bool_schema(self, schema: Any) -> JsonSchemaValue:
        return _or_reference(super().bool_schema(schema))

    def literal_schema(self, schema: Any) -> JsonSchemaValue:
        return _or_reference(super().literal_schema(schema))

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:  # noqa: ARG002
        """Settings that can only be given in Python (a function, a client) accept anything."""
        return {}


def _or_reference(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [schema, _REFERENCE]}
