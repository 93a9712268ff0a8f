"""From settings to the plugins and targets they describe: everything is checked, then everything is built."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, cast

from llmkit_plugins.call import Target
from llmkit_plugins.discovery import Found, discover, warn_about
from llmkit_plugins.document import Document, join, nested_under_plugins, read, scrub
from llmkit_plugins.errors import ConfigError
from llmkit_plugins.kit_settings import KitSettings
from llmkit_plugins.settings import as_one, each, nearest, shown, similar

DEFAULT_ORDER = ("observability", "rate_limiter", "multiplexer", "router", "circuit_breaker")


class Assembly(NamedTuple):
    """What the settings describe, ready to build a kit from."""

    plugins: list[tuple[str, Any]]
    """The name and the instance of each enabled plugin, in order."""
    targets: list[Target]
    """The places that can answer."""
    settings: KitSettings
    """The kit's own settings."""


def assemble(source: str | PathLike[str] | Mapping[str, Any] | None = None) -> Assembly:
    """The plugins and targets that *source* describes: a dict, the path of a TOML file, or None to look in the usual
    places. Raises ``ConfigError``, or ``ConfigErrors`` listing all problems if there are several.
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
    """The plugins that *document* enables, each with its place in the list; None if it does not say."""
    names = document.table.get("plugins")
    if not isinstance(names, list):
        return None
    return {name: names.index(name) for name in names if isinstance(name, str)}


def installed(document: Document) -> dict[str, Found]:
    """The installed plugins by name; only those that *document* enables are loaded."""
    found: dict[str, Found] = {}
    for one in discover(load=listed(document)):
        if one.name in found:
            warn_about(one)
        else:
            found[one.name] = one
    return found


def default_order(found: Mapping[str, Found]) -> list[str]:
    """The plugins enabled by default: the five, then any other usable ones, by name."""
    usable = {name for name, one in found.items() if one.plugin}
    return [name for name in DEFAULT_ORDER if name in usable] + sorted(usable.difference(DEFAULT_ORDER))


class _Problems:
    """Collects what is wrong with a document, to report everything at once."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._errors: list[ConfigError] = []
        self._unresolved = frozenset(error.key for error in document.problems)
        self._errors.extend(self._located(error, error.key) for error in document.problems)

    @contextmanager
    def under(self, key: str = "") -> Iterator[None]:
        """Record an error raised inside as a problem of the table *key*."""
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
        """Record *error*, unless it only follows from a reference that could not be replaced."""
        key = join(under, error.key)
        if key not in self._unresolved:
            self._errors.append(self._located(error, key))

    def check(self) -> None:
        """Raise what was recorded."""
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
    """Why the plugin called *name* cannot be enabled."""
    if name not in found:
        there = f"installed: {', '.join(sorted(found)) or 'none'}"
        right = "; ".join(filter(None, [similar(name, found), there]))
        return ConfigError(f"no plugin called {name!r} is installed", right=right)
    if error := found[name].error:
        what = f"plugin {name!r} of {found[name].origin} cannot be used: {error}"
        return ConfigError(what, right="repair or update that package, or do without the plugin")
    return None


def _check_tables(document: Document, enabled: list[Found], found: Mapping[str, Found], problems: _Problems) -> None:
    """Report every key that nothing reads: none is silently ignored."""
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
    """The checked settings of one plugin, only those that were given: the plugin's own defaults apply to the rest."""
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
