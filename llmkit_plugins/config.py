"""The settings of a kit, and the plugins and targets they describe."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from pydantic import Field, field_validator

from llmkit_plugins.call import Target
from llmkit_plugins.discovery import Found, discover, warn_about
from llmkit_plugins.errors import ConfigError
from llmkit_plugins.settings import ConfigErrors, Settings, as_one, each, nearest, shown, similar
from llmkit_plugins.source import Document, join, nested_under_plugins, read, scrub

__all__ = [
    "Assembly",
    "ConfigErrors",
    "KitSettings",
    "Settings",
    "TargetSettings",
    "assemble",
    "build",
    "default_order",
    "installed",
    "listed",
]

DEFAULT_ORDER = ("observability", "rate_limiter", "multiplexer", "router", "circuit_breaker")


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
        description="USD per million input tokens read from the provider's cache; as any input if not given.",
    )
    weight: float = Field(default=1.0, ge=0, description="Share of the traffic among equals.")
    serves: list[str] | None = Field(
        default=None, description="The models asked for that it can answer; any if not given."
    )
    metadata: dict[str, Any] = Field(default={}, description="Whatever plugins need to know: region, tags, limits.")

    def target(self) -> Target:
        """The target these settings describe."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return Target(**{**given, "serves": None if self.serves is None else frozenset(self.serves)})


class KitSettings(Settings):
    """The settings that are the kit's own; those of each plugin are in a table called like the plugin."""

    plugins: list[str] | None = Field(
        default=None, description="The enabled plugins, in the order of their hooks; all installed ones if not given."
    )
    targets: list[TargetSettings] = Field(default=[], description="The places that can answer.")
    on_plugin_error: Literal["log", "raise"] = Field(
        default="log",
        description="What becomes of a plugin's bug: logged, and the call goes on; or (for tests) raised.",
    )
    lease_seconds: float = Field(
        default=600.0,
        gt=0,
        description="Seconds after which a call is ended that a framework began and never ended; "
        "a stream, after so long without a chunk.",
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
    """The plugins and targets that *source* describes: a dict, the path of a TOML file, or None to look in the usual
    places. Raises ``ConfigError`` (``ConfigErrors`` where there are several problems: all of them are told).
    """
    return build(read(source))


def build(document: Document) -> Assembly:
    """The plugins and targets that *document* describes. Nothing is built before everything is checked."""
    problems = _Problems(document)
    settings = _kit_settings(document, problems)
    found = installed(document)
    enabled = _enabled(document, found, problems)
    _check_tables(document, enabled, found, problems)
    prepared = [(one, _plugin_settings(one, document, problems)) for one in enabled]
    problems.check()
    plugins = [(one.name, _built(one, given, problems)) for one, given in prepared]
    problems.check()
    return Assembly(plugins, [target.target() for target in settings.targets], settings)


def listed(document: Document) -> dict[str, int] | None:
    """The plugins that *document* enables, each with its place in the list; None where it leaves them open."""
    names = document.table.get("plugins")
    if not isinstance(names, list):
        return None
    return {name: names.index(name) for name in names if isinstance(name, str)}


def installed(document: Document) -> dict[str, Found]:
    """The installed plugins by name; loaded are those that *document* enables."""
    found: dict[str, Found] = {}
    for one in discover(load=listed(document)):
        if one.name in found:
            warn_about(one)
        else:
            found[one.name] = one
    return found


def default_order(found: Mapping[str, Found]) -> list[str]:
    """The plugins that are enabled where nothing is said: the five, then whatever else can be used, by name."""
    usable = {name for name, one in found.items() if one.plugin}
    return [name for name in DEFAULT_ORDER if name in usable] + sorted(usable.difference(DEFAULT_ORDER))


class _Problems:
    """What is wrong with a document, so that all of it can be said at once."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._errors: list[ConfigError] = []
        self._unresolved = frozenset(error.key for error in document.problems)
        self._errors.extend(self._located(error, error.key) for error in document.problems)

    @contextmanager
    def under(self, key: str = "") -> Iterator[None]:
        """Take note of what is raised inside, as a problem of the table *key*."""
        try:
            yield
        except ConfigError as error:
            for single in each(error):
                self.add(single, key)
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            told = scrub(f"{type(error).__name__}: {error}", self._document.table.get(key))
            self.add(ConfigError(f"the plugin failed with {told} ({Path(at.filename).name}, line {at.lineno})"), key)

    def add(self, error: ConfigError, under: str = "") -> None:
        """Take note of *error*, unless it only follows from a reference that could not be replaced."""
        key = join(under, error.key)
        if key not in self._unresolved:
            self._errors.append(self._located(error, key))

    def check(self) -> None:
        """Raise what was noted."""
        if self._errors:
            raise as_one(self._errors)

    def _located(self, error: ConfigError, key: str | None) -> ConfigError:
        full = join(self._document.prefix, key) or None
        return ConfigError(error.what, error.file or self._document.file, full, error.right)


def _kit_settings(document: Document, problems: _Problems) -> KitSettings:
    own = {name: value for name, value in document.table.items() if name in KitSettings.model_fields}
    if isinstance(own.get("plugins"), Mapping):
        for plugin in own.pop("plugins"):
            problems.add(nested_under_plugins(plugin))
    with problems.under():
        return KitSettings(**own)
    return KitSettings()


def _enabled(document: Document, found: Mapping[str, Found], problems: _Problems) -> list[Found]:
    names = listed(document)
    if names is None:
        for one in found.values():
            if one.error:
                warn_about(one)
        return [found[name] for name in default_order(found)]
    for name, place in names.items():
        if trouble := _unusable(name, found):
            problems.add(trouble, f"plugins[{place}]")
    return [found[name] for name in names if name in found and found[name].plugin]


def _unusable(name: str, found: Mapping[str, Found]) -> ConfigError | None:
    """What keeps the plugin called *name* from being enabled."""
    if name not in found:
        there = f"installed: {', '.join(sorted(found)) or 'none'}"
        right = "; ".join(filter(None, [similar(name, found), there]))
        return ConfigError(f"no plugin called {name!r} is installed", right=right)
    if error := found[name].error:
        what = f"plugin {name!r} of {found[name].origin} cannot be used: {error}"
        return ConfigError(what, right="repair or update that package, or do without the plugin")
    return None


def _check_tables(document: Document, enabled: list[Found], found: Mapping[str, Found], problems: _Problems) -> None:
    """Nothing is silently ignored: a key that nobody reads is a problem."""
    known = {*KitSettings.model_fields, *(one.name for one in enabled), *(listed(document) or ())}
    for name in document.table:
        if name not in known:
            problems.add(_unread(name, found), name)


def _unread(name: str, found: Mapping[str, Found]) -> ConfigError:
    if name not in found:
        what = "there is no such setting, and no such plugin is installed"
        return ConfigError(what, right=nearest(name, {*KitSettings.model_fields, *found}))
    what = "the plugin is not enabled, so its settings do nothing"
    return _unusable(name, found) or ConfigError(what, right=f"add {name!r} to plugins, or take [{name}] out")


def _plugin_settings(found: Found, document: Document, problems: _Problems) -> dict[str, Any]:
    """The checked settings of one plugin, only those that were given: the rest is left to the plugin's own defaults."""
    with problems.under(found.name):
        settings = found.settings(**_table(found, document))
        return {name: getattr(settings, name) for name in settings.model_fields_set}
    return {}


def _table(found: Found, document: Document) -> Mapping[str, Any]:
    table = document.table.get(found.name, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"the settings of a plugin are a table, not {shown(table)}", right=f"[{found.name}]")
    return table


def _built(found: Found, given: Mapping[str, Any], problems: _Problems) -> Any:
    with problems.under(found.name):
        return cast("Callable[..., Any]", found.plugin)(**given)


def _no_duplicates(names: Iterable[str], key: str, what: str, right: str) -> None:
    seen: set[str] = set()
    wrong = []
    for place, name in enumerate(names):
        if name in seen:
            wrong.append(ConfigError(what.format(name), key=key.format(place), right=right))
        seen.add(name)
    if wrong:
        raise as_one(wrong)
