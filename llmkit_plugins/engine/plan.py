"""A compiled set of plugins, which the lifecycle walks instead of going through pluggy (1 µs even for a hook that no
plugin implements)."""

from __future__ import annotations

import difflib
import functools
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pluggy

from llmkit_plugins import hookspecs
from llmkit_plugins.clock import Clock, Sleep
from llmkit_plugins.engine.sharing import Flights
from llmkit_plugins.errors import ConfigError
from llmkit_plugins.forks import new_lock

log = logging.getLogger("llmkit")

HOOKS = {
    name: tuple(inspect.signature(spec).parameters)
    for name, spec in vars(hookspecs).items()
    if name.startswith("llmkit_")
}
PAIRS = {
    "llmkit_post_attempt": "llmkit_pre_attempt",
    "llmkit_post_response": "llmkit_pre_request",
    "llmkit_error": "llmkit_pre_request",
}
"""A post hook is called only if this pre hook of the same plugin was called."""


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Hook(NamedTuple):
    """One implementation. For a pre hook, *need* is its position; a post hook runs if at least *need* pre hooks were
    called: the position of its own plugin's, or 0 if it has none."""

    need: int
    function: Callable[..., Any]
    who: str
    critical: bool


class Bugs:
    """Counts plugin errors by ``plugin.hook``, and logs the first of each with its traceback."""

    def __init__(self, on_plugin_error: Literal["log", "raise"]) -> None:
        self.counts: Counter[str] = Counter()
        self._raises = on_plugin_error == "raise"
        self._lock = new_lock()
        self.listeners: list[Callable[[str], Any]] = []
        """Called with the ``plugin.hook`` of each error."""

    def report(self, who: str, bug: Exception) -> bool:
        """Count and log *bug*; True if the caller should raise it."""
        with self._lock:
            self.counts[who] += 1
            first = self.counts[who] == 1
        if first:
            log.error("%s failed; this is logged the first time only", who, exc_info=bug)
        for told in self.listeners:
            with suppress(Exception):  # a bug in a bug listener cannot be reported to anyone
                told(who)
        return self._raises


@dataclass(slots=True, frozen=True, eq=False)
class Plan:
    """The hooks in call order, and what a driver needs. A call keeps the plan it started with."""

    pre_request: tuple[Hook, ...]
    route: tuple[Hook, ...]
    pre_attempt: tuple[Hook, ...]
    post_attempt: tuple[Hook, ...]
    post_response: tuple[Hook, ...]
    error: tuple[Hook, ...]
    clock: Clock
    sleep: Sleep
    flights: Flights
    bugs: Bugs


def compile_hooks(plugins: Sequence[Any], manager: pluggy.PluginManager) -> dict[str, tuple[Hook, ...]]:
    """The hooks of *plugins* by short name: pre and route hooks in listed order, post hooks reversed."""
    implementations = {name: _in_order(manager, name, plugins) for name in HOOKS}
    compiled = {}
    for name, these in implementations.items():
        asked = [impl.plugin for impl in implementations.get(PAIRS.get(name, name), ())]
        hooks = [
            Hook(
                asked.index(impl.plugin) + 1 if impl.plugin in asked else 0,
                _by_position(impl, HOOKS[name]),
                f"{impl.plugin_name}.{name}",
                bool(getattr(impl.plugin, "critical", False)),
            )
            for impl in these
        ]
        compiled[name.removeprefix("llmkit_")] = tuple(hooks[::-1] if name in PAIRS else hooks)
    return compiled


def _in_order(manager: pluggy.PluginManager, name: str, plugins: Sequence[Any]) -> list[pluggy.HookImpl]:
    found = {id(impl.plugin): impl for impl in getattr(manager.hook, name).get_hookimpls()}
    return [found[id(plugin)] for plugin in plugins if id(plugin) in found]


def _by_position(impl: pluggy.HookImpl, names: tuple[str, ...]) -> Callable[..., Any]:
    """Adapt pluggy's binding by name, in which arguments may be left out, to the lifecycle's calls by position."""
    function: Callable[..., Any] = impl.function
    taken = tuple(impl.argnames)
    return function if taken == names else _ADAPTED[tuple(map(names.index, taken))](function)


_ADAPTED: dict[tuple[int, ...], Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    (): lambda function: lambda *_: function(),
    (0,): lambda function: lambda first, _: function(first),
    (1,): lambda function: lambda _, second: function(second),
    (1, 0): lambda function: lambda first, second: function(second, first),
}
"""Adapters to two positional arguments, by the positions a function takes. (A single generic one would be four times
as slow.)"""


def check_hooks(plugin: Any, plugin_name: str) -> None:
    """Raise ``ConfigError`` if *plugin* has a hook that could never work as intended, or no hook at all."""
    marked = 0
    for attribute in dir(plugin):
        found = inspect.getattr_static(plugin, attribute, None)
        function = getattr(found, "__func__", found)  # unwrap a static or class method, which may itself be marked
        options: Mapping[str, Any] | None = getattr(found, "llmkit_impl", getattr(function, "llmkit_impl", None))
        if options is None and not attribute.startswith("llmkit_"):
            continue
        marked += 1
        name = (options or {}).get("specname") or attribute
        called = getattr(plugin, attribute)
        if inspect.isclass(plugin) and inspect.isfunction(found):
            called = functools.partial(called, None)  # stand in for self: a class is checked before it is instantiated
        if trouble := _trouble(name, function, options) or _unknown_argument(name, called):
            what, right = trouble
            raise ConfigError(what, key=f"{plugin_name}.{attribute}", right=right)
    if not marked:
        raise ConfigError("it implements no hook", key=plugin_name, right=f"at least one of {', '.join(HOOKS)}")


def _trouble(name: str, function: Any, options: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """What is wrong with a hook, and how to fix it."""
    if name not in HOOKS:
        near = difflib.get_close_matches(name, HOOKS, n=1)
        return "there is no such hook", f"did you mean {near[0]}?" if near else f"one of {', '.join(HOOKS)}"
    if options is None:
        return "the hook is not marked", "put @hookimpl above it"
    if not inspect.isroutine(function):
        return "the hook is neither a function nor a method", "a def or a lambda"
    if options.get("wrapper") or options.get("hookwrapper"):
        return "hook wrappers are not supported", "use the pre hook and its post hook"
    if options.get("tryfirst") or options.get("trylast"):
        return "tryfirst and trylast have no effect", "the order of the plugins list is the order of the hooks"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "a hook cannot be async", "a generator that yields Ask or Wait serves sync and async"
    if inspect.isgeneratorfunction(function) and "_pre_" not in name:
        return "only pre hooks can yield steps", "queue what has to wait"
    return None


def _unknown_argument(name: str, function: Callable[..., Any]) -> tuple[str, str] | None:
    """What is wrong with a hook's required arguments."""
    for argument in inspect.signature(function).parameters.values():
        insists = argument.default is argument.empty and argument.kind not in _VARIADIC
        if insists and (argument.name not in HOOKS[name] or argument.kind is argument.KEYWORD_ONLY):
            named = ", ".join(HOOKS[name])
            return f"the hook has no argument {argument.name!r}", f"any of {named}, in any order, none after a *"
    return None
