"""The settings of a kit, and the plugins and targets they describe."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from llmkit_plugins.call import Target
from llmkit_plugins.discovery import Found, discover, warn_about
from llmkit_plugins.errors import ConfigError
from llmkit_plugins.settings import ConfigErrors, Settings, as_one, each, nearest
from llmkit_plugins.source import Document, join, nested_under_plugins, read, scrub

__all__ = ["Assembly", "ConfigErrors", "KitSettings", "Settings", "TargetSettings", "assemble", "build"]

DEFAULT_ORDER = ("observability", "rate_limiter", "multiplexer", "router", "circuit_breaker")


class TargetSettings(Settings):
    """One ``[[targets]]``: a place that can answer."""

    name: str = Field(min_length=1, description="Unique name of the target.")
    provider: str = Field(min_length=1, description="Who runs it: openai, anthropic, azure …")
    model: str = Field(min_length=1, description="The provider's name of the model.")
    input_price: float | None = Field(default=None, ge=0, description="USD per million input tokens; 0 is free.")
    output_price: float | None = Field(default=None, ge=0, description="USD per million output tokens.")
    cached_price: float | None = Field(
        default=None, ge=0, description="USD per million input tokens read from the provider's cache; else as any input."
    )
    weight: float = Field(default=1.0, ge=0, description="Share of the traffic among equals.")
    serves: list[str] | None = Field(default=None, description="The models asked for that it can answer; any where not given.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Whatever plugins need to know: region, tags, limits.")

    def target(self) -> Target:
        """The target these settings describe."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return Target(**{**given, "serves": None if self.serves is None else frozenset(self.serves)})


class KitSettings(Settings):
    """The settings that are the kit's own; those of each plugin are in a table called like the plugin."""

    plugins: list[str] | None = Field(
        default=None, description="The enabled plugins, in the order of their hooks; the installed ones where not given."
    )
    targets: list[TargetSettings] = Field(default=[], description="The places that can answer.")
    on_plugin_error: Literal["log", "raise"] = Field(
        default="log", description="What a plugin's bug does: it is logged and the call goes on, or (for tests) it is raised."
    )
    lease_seconds: float = Field(
        default=600.0, gt=0, description="Seconds after which a call is ended that a framework began and never ended."
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


class Assembly(NamedTuple):
    """What settings describe, ready to be put in a kit."""

    plugins: list[tuple[str, Any]]
    """The name and the instance of each enabled plugin, in order."""
    targets: list[Target]
    """The places that can answer."""
    settings: KitSettings
    """The kit's own settings."""


def assemble(source: str | PathLike[str] | Mapping[str, Any] | None = None) -> Assembly:
    """The plugins and targets that *source* describes: a dict, the path of a TOML file, or None to look in the usual places.

    Raises ``ConfigError``, which lists every problem there is (``ConfigErrors`` where there are several).
    """
    return build(read(source))


def build(document: Document) -> Assembly:
    """The plugins and targets that *document* describes. Nothing is built before everything is checked."""
    problems = _Problems(document)
    settings = _kit_settings(document, problems)
    found = _installed(document)
    enabled = _enabled(listed(document), found, problems)
    _no_stray_tables(document, enabled, found, problems)
    prepared = [(plugin, _plugin_settings(plugin, document, problems)) for plugin in enabled]
    problems.check()
    plugins = [(plugin.name, _built(plugin, given, problems)) for plugin, given in prepared]
    problems.check()
    return Assembly(plugins, [target.target() for target in settings.targets], settings)


def listed(document: Document) -> list[str] | None:
    """The plugins that *document* enables, as far as it can be read; None where it leaves that open."""
    names = document.table.get("plugins")
    return list(dict.fromkeys(name for name in names if isinstance(name, str))) if isinstance(names, list) else None


def default_order(found: Iterable[Found]) -> list[str]:
    """The plugins that are enabled where nothing is said: the five, then whatever else can be used, by name."""
    usable = {one.name for one in found if one.plugin}
    return [name for name in DEFAULT_ORDER if name in usable] + sorted(usable.difference(DEFAULT_ORDER))


class _Problems:
    """What is wrong with a document, so that all of it can be said at once."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._errors: list[ConfigError] = []
        for error in document.problems:
            self.add(error)

    @contextmanager
    def under(self, key: str = "") -> Iterator[None]:
        """Take note of a ``ConfigError`` that is raised inside, as one of the table *key*."""
        try:
            yield
        except ConfigError as error:
            for single in each(error):
                self.add(single, key)

    def add(self, error: ConfigError, under: str = "") -> None:
        """Take note of *error*, unless it is only what follows from a reference that could not be replaced."""
        key = join(under, error.key)
        full = join(self._document.prefix, key) or None
        if not any(known.key == full for known in self._errors[: len(self._document.problems)]):
            self._errors.append(ConfigError(error.what, error.file or self._document.file, full, error.right))

    def check(self) -> None:
        """Raise what was noted."""
        if self._errors:
            raise as_one(self._errors)
