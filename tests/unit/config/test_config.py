"""From settings to plugins and targets."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmkit_plugins import ConfigError, LLMKit, Target
from llmkit_plugins.config import assemble
from llmkit_plugins.kit_settings import KitSettings, TargetSettings
from llmkit_plugins.settings import each

TARGET = {"name": "fast", "provider": "openai", "model": "gpt-4o-mini"}


def problems(source: Any) -> list[tuple[str | None, str, str | None]]:
    with pytest.raises(ConfigError) as raised:
        assemble(source)
    return [(error.key, error.what, error.right) for error in each(raised.value)]


def names(source: Any) -> list[str]:
    return [name for name, _ in assemble(source).plugins]


@pytest.mark.usefixtures("plugins")
def test_nothing_said() -> None:
    """Empty settings are right: all that can be used is enabled, and there are no targets."""
    plugins, targets, settings = assemble({})
    assert [name for name, _ in plugins] == ["rate_limiter", "router", "plain"]
    assert targets == []
    assert settings == KitSettings()
    assert (settings.on_plugin_error, settings.lease_seconds) == ("log", 600.0)


def test_default_order(install: Callable[..., Any], plugins: SimpleNamespace) -> None:
    """Without a list, the five come in their order and the others after them by name."""
    for name in ("circuit_breaker", "zebra", "observability", "apple", "multiplexer"):
        install(name, plugins.Plain)
    five = ["observability", "rate_limiter", "multiplexer", "router", "circuit_breaker"]
    assert names({}) == [*five, "apple", "plain", "zebra"]


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("listed", [["plain", "router"], ["router", "plain"], []])
def test_the_list_is_the_order(listed: list[str]) -> None:
    """Exactly the listed plugins are enabled, as listed."""
    assert names({"plugins": listed}) == listed


def test_only_listed_plugins_are_imported(install: Callable[..., Any], plugins: SimpleNamespace) -> None:
    """A plugin that is not enabled is not even imported."""
    wanted, other = install("wanted", plugins.Plain), install("other", plugins.Plain)
    assemble({"plugins": ["wanted"]})
    assert (wanted.loads, other.loads) == (1, 0)


def test_settings_reach_the_plugin(plugins: SimpleNamespace) -> None:
    """A plugin is built with the settings that were given, checked and converted, and only with those."""
    table = {"max_wait_seconds": 20, "limits": [{"per": ["user"], "requests": "60/min"}]}
    built = dict(assemble({"rate_limiter": table}).plugins)
    assert isinstance(built["rate_limiter"], plugins.RateLimiter)
    assert built["rate_limiter"].settings.keys() == {"max_wait_seconds", "limits"}
    assert built["rate_limiter"].settings["max_wait_seconds"] == 20.0
    assert built["rate_limiter"].settings["limits"][0].requests == "60/min"
    assert built["plain"].settings == {}


def test_secrets_reach_the_plugin(monkeypatch: pytest.MonkeyPatch, plugins: SimpleNamespace) -> None:
    """A reference is replaced before the settings are checked."""
    monkeypatch.setenv("PASSWORD", "sk-123456")
    monkeypatch.setenv("PATIENCE", "20")
    source = {"rate_limiter": {"redis_url": "redis://:${PASSWORD}@localhost", "max_wait_seconds": "${PATIENCE}"}}
    (limiter,) = (plugin for _, plugin in assemble(source).plugins if isinstance(plugin, plugins.RateLimiter))
    assert limiter.settings["redis_url"].get_secret_value() == "redis://:sk-123456@localhost"
    assert limiter.settings["max_wait_seconds"] == 20.0


def test_a_factory(install: Callable[..., Any], plugins: SimpleNamespace) -> None:
    """An entry point may be a function that makes the plugin."""
    made = plugins.Plain()
    install("made", lambda: made)
    assert assemble({"plugins": ["made"]}).plugins == [("made", made)]


def test_targets() -> None:
    """Each of the targets has what its table says, and the defaults of ``Target`` where that says nothing."""
    rich = {**TARGET, "name": "rich", "input_price": 1, "output_price": 2.5, "cached_price": 0.5, "weight": 3}
    rich |= {"serves": ["gpt-4o", "gpt-4o"], "metadata": {"region": "eu", "tags": ["x"]}}
    targets = assemble({"plugins": [], "targets": [rich, TARGET]}).targets
    assert [dataclasses.asdict(target) for target in targets] == [
        {**rich, "serves": frozenset({"gpt-4o"})},
        dataclasses.asdict(Target(**TARGET)),
    ]


def test_every_field_of_a_target_can_be_set() -> None:
    """The settings of a target are the fields of ``Target``."""
    assert list(TargetSettings.model_fields) == [field.name for field in dataclasses.fields(Target)]


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("name", sorted(KitSettings.model_fields))
def test_a_reserved_name_is_refused(name: str, install: Callable[..., Any], plugins: SimpleNamespace) -> None:
    """A plugin that is called like one of the kit's own settings is told of and cannot be enabled."""
    install(name, plugins.Plain)
    ((key, what, _),) = problems({"plugins": [name]})
    assert key == "plugins[0]"
    assert what.endswith("its name is that of one of the kit's own settings")


@pytest.mark.usefixtures("plugins")
def test_problems_come_all_at_once() -> None:
    """Every problem is told in one go, whatever part of the settings it is in."""
    source = {
        "plugins": ["rate_limiter", "rooter", "shaky"],
        "targets": [{**TARGET, "weight": -1}],
        "lease_seconds": "${UNSET_VARIABLE}",
        "rate_limiter": {"on_limit": "beg"},
        "router": {},
        "nonsense": 1,
    }
    assert [key for key, _, _ in problems(source)] == [
        "lease_seconds",
        "targets[0].weight",
        "plugins[1]",
        "plugins[2]",
        "router",
        "nonsense",
        "rate_limiter.on_limit",
    ]


@pytest.mark.usefixtures("plugins")
def test_keys_in_a_pyproject_are_whole() -> None:
    """In a pyproject.toml the key begins with tool.llmkit, and the file is named."""
    Path("pyproject.toml").write_text("[tool.llmkit.router]\noptimize_for = 'x'\n")
    with pytest.raises(ConfigError) as raised:
        assemble()
    assert (raised.value.file, raised.value.key) == ("pyproject.toml", "tool.llmkit.router.optimize_for")


def test_a_plugin_that_cannot_be_imported_is_skipped(
    plugins: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it is not listed it is reported once, and the others work."""
    for _ in range(3):
        assert "shaky" not in names({})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message == (
        "plugin 'shaky' of acme 1.0 is skipped: it cannot be imported: ImportError: No module named 'shaken'"
    )


def test_the_second_of_a_name_is_reported(
    install: Callable[..., Any], plugins: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """Where two packages offer a name, the second is told of and the first is what is enabled."""
    install("plain", plugins.Router, "beta", "2.0")
    ((_, plugin),) = assemble({"plugins": ["plain"]}).plugins
    assert type(plugin) is plugins.Plain
    assert caplog.messages == ["plugin 'plain' of beta 2.0 is skipped: the name is taken by acme 1.0"]


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(("source", "key"), [({"plugins": ["shaky"]}, "plugins[0]"), ({"shaky": {"a": 1}}, "shaky")])
def test_a_plugin_that_cannot_be_imported_but_is_wanted(source: Any, key: str) -> None:
    """Where it is listed, or has settings, the import error is a problem."""
    ((told, what, right),) = problems(source)
    assert told == key
    assert "ImportError: No module named 'shaken'" in what
    assert right


@pytest.mark.parametrize("failing", [TypeError("no sk-123456 today"), ValueError("sk-123456")])
def test_a_plugin_that_cannot_be_built(
    failing: Exception, install: Callable[..., Any], plugins: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in a plugin's constructor is told with its place, without the values it was given from the environment."""

    class Failing(plugins.RateLimiter):  # type: ignore[name-defined, misc]
        def __init__(self, **_: Any) -> None:
            raise failing

    monkeypatch.setenv("PASSWORD", "sk-123456")
    install("failing", Failing)
    ((key, what, _),) = problems({"failing": {"redis_url": "${PASSWORD}"}})
    assert key == "failing"
    assert what.startswith(f"the plugin failed with {type(failing).__name__}")
    assert "test_config.py, line" in what
    assert "123456" not in what
    assert "${PASSWORD}" in what


def test_a_plugin_may_refuse_its_settings(install: Callable[..., Any], plugins: SimpleNamespace) -> None:
    """A ``ConfigError`` of a plugin's constructor is told at the plugin's table."""

    class Choosy(plugins.Plain):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            raise ConfigError("it is too hot", key="weather", right="wait")

    install("choosy", Choosy)
    assert problems({"plugins": ["choosy"]}) == [("choosy.weather", "it is too hot", "wait")]


def test_nothing_is_built_before_all_is_checked(install: Callable[..., Any], plugins: SimpleNamespace) -> None:
    """A plugin may take hold of things when it is built; with wrong settings elsewhere it is not."""
    built = []

    class Eager(plugins.Plain):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            built.append(self)

    install("eager", Eager)
    problems({"plugins": ["eager"], "lease_seconds": 0})
    assert built == []


@pytest.mark.usefixtures("plugins")
def test_a_kit_from_settings() -> None:
    """``LLMKit.from_config`` has the plugins in order, the targets and the kit's own settings."""
    with LLMKit.from_config({"plugins": ["router", "rate_limiter"], "targets": [TARGET], "lease_seconds": 5}) as kit:
        assert list(kit.plugins) == ["router", "rate_limiter"]
        assert [target.name for target in kit.targets] == ["fast"]
