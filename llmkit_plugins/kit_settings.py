"""The settings of the kit itself, next to which each plugin has a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, field_validator

from llmkit_plugins.call import Target
from llmkit_plugins.errors import ConfigError
from llmkit_plugins.settings import Settings, as_one


class TargetSettings(Settings):
    """One ``[[targets]]``: a place that can answer."""

    name: str = Field(min_length=1, description="Unique name of the target.")
    provider: str = Field(min_length=1, description="Who runs it: openai, anthropic, azure …")
    model: str = Field(min_length=1, description="The provider's name of the model.")
    input_price: float | None = Field(default=None, ge=0, description="USD per million input tokens; 0 is free.")
    output_price: float | None = Field(default=None, ge=0, description="USD per million output tokens.")
    cached_price: float | None = Field(
        default=None,
        ge=0,
        description="USD per million input tokens read from the provider's cache; the input price if not given.",
    )
    weight: float = Field(default=1.0, ge=0, description="Share of the traffic among equals.")
    serves: list[str] | None = Field(
        default=None, description="The requested models that it can answer; any if not given."
    )
    metadata: dict[str, Any] = Field(default={}, description="Anything plugins need to know: region, tags, limits.")

    def target(self) -> Target:
        """The target these settings describe."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return Target(**{**given, "serves": None if self.serves is None else frozenset(self.serves)})


class KitSettings(Settings):
    """The settings that are the kit's own; those of each plugin are in a table called like the plugin."""

    plugins: list[str] | None = Field(
        default=None, description="The enabled plugins, in hook order; all installed ones if not given."
    )
    targets: list[TargetSettings] = Field(default=[], description="The places that can answer a call.")
    on_plugin_error: Literal["log", "raise"] = Field(
        default="log",
        description="What happens when a plugin has a bug: log it and let the call proceed, or (for tests) raise it.",
    )
    lease_seconds: float = Field(
        default=600.0,
        gt=0,
        description="Seconds after which a call is ended that a framework began and never ended; for a stream, "
        "seconds since its last chunk.",
    )

    @field_validator("plugins")
    @classmethod
    def _listed_once(cls, plugins: list[str] | None) -> list[str] | None:
        _no_duplicates(plugins or (), "[{}]", "{!r} is listed twice", "each plugin once")
        return plugins

    @field_validator("targets")
    @classmethod
    def _named_once(cls, targets: list[TargetSettings]) -> list[TargetSettings]:
        names = [target.name for target in targets]
        _no_duplicates(names, "[{}].name", "another target is called {!r} too", "a name of its own for each target")
        return targets


def _no_duplicates(names: Iterable[str], key: str, what: str, right: str) -> None:
    seen: set[str] = set()
    wrong = []
    for place, name in enumerate(names):
        if name in seen:
            wrong.append(ConfigError(what.format(name), key=key.format(place), right=right))
        seen.add(name)
    if wrong:
        raise as_one(wrong)
