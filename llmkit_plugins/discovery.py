"""Which plugins are installed: the entry points of the group ``llmkit_plugins``, each loaded in isolation."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from llmkit_plugins.engine.plan import HOOKS, check_hooks
from llmkit_plugins.errors import ConfigError
from llmkit_plugins.hookspecs import ENTRY_POINTS
from llmkit_plugins.kit_settings import KitSettings
from llmkit_plugins.settings import Settings

log = logging.getLogger("llmkit")

_OWN = "llmkit-plugins"
_warned: set[Found] = set()


@dataclass(frozen=True, slots=True)
class Found:
    """One installed plugin, as described by its entry point."""

    name: str
    """Its name in the settings."""
    value: str
    """Where it is: ``module:attribute``."""
    distribution: str | None = None
    """The package that provides it."""
    version: str | None = None
    """The version of that package."""
    plugin: Callable[..., Any] | None = None
    """Its class, or a factory without arguments; None if it was not loaded or cannot be used."""
    error: str | None = None
    """Why it cannot be used."""
    hooks: tuple[str, ...] = ()
    """The hooks its class implements, in the order they fire; unknown for a factory's plugin."""

    @property
    def settings(self) -> type[Settings]:
        """The schema of its table: the class it declares as ``Config``; without one, it has no settings."""
        declared: type[Settings] = getattr(self.plugin, "Config", Settings)
        return declared

    @property
    def origin(self) -> str:
        """The package that provides it, with its version."""
        return " ".join(filter(None, [self.distribution or "an unknown package", self.version]))


def discover(load: Collection[str] | None = None) -> list[Found]:
    """The installed plugins by name; those in *load* (None: all) are imported. One that cannot be imported is listed
    with its error. If several packages offer a name, the first wins: this package, then the others by name."""
    found: list[Found] = []
    first: dict[str, Found] = {}
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=_precedence):
        one = Found(entry.name, entry.value, *_origin(entry))
        if (owner := first.setdefault(one.name, one)) is not one:
            found.append(replace(one, error=f"the name is taken by {owner.origin}"))
        else:
            found.append(_loaded(one, entry) if load is None or one.name in load else one)
    return found


def warn_about(found: Found) -> None:
    """Log once that *found* was skipped."""
    if found not in _warned:
        _warned.add(found)
        log.warning("plugin %r of %s is skipped: %s", found.name, found.origin, found.error)


def _precedence(entry: EntryPoint) -> tuple[str, bool, str, str]:
    distribution, _ = _origin(entry)
    return entry.name, distribution != _OWN, distribution or "", entry.value


def _origin(entry: EntryPoint) -> tuple[str | None, str | None]:
    try:
        return (entry.dist.name, entry.dist.version) if entry.dist else (None, None)
    except (KeyError, OSError):  # a half-removed package has no metadata to read
        return None, None


def _loaded(found: Found, entry: EntryPoint) -> Found:
    try:
        plugin = entry.load()
    except (Exception, SystemExit) as error:
        return replace(found, error=f"it cannot be imported: {type(error).__name__}: {error}")
    try:
        _check(found, plugin)
    except ConfigError as error:
        return replace(found, error=str(error))
    return replace(found, plugin=plugin, hooks=_hooks(plugin))


def _check(found: Found, plugin: Any) -> None:
    if found.name in KitSettings.model_fields:
        raise ConfigError("its name is that of one of the kit's own settings")
    if not callable(plugin):
        raise ConfigError(f"{found.value} is neither a class nor a factory")
    declared = getattr(plugin, "Config", Settings)
    if not (inspect.isclass(declared) and issubclass(declared, Settings)):
        raise ConfigError("its Config is not a subclass of Settings")
    if inspect.isclass(plugin):
        check_hooks(plugin, found.name)


def _hooks(plugin: Any) -> tuple[str, ...]:
    marked = {
        options.get("specname") or name
        for name in dir(plugin)
        if (options := getattr(inspect.getattr_static(plugin, name), "llmkit_impl", None))
    }
    return tuple(hook for hook in HOOKS if hook in marked)
