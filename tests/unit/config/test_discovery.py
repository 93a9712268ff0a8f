"""What is installed, found by entry points."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmkit_plugins import hookimpl
from llmkit_plugins.discovery import Found, discover


class Odd:
    """Has hooks under other names, and settings that are none."""

    Config = dict

    @hookimpl
    def llmkit_error(self) -> None: ...


class Renamed:
    @hookimpl(specname="llmkit_route")
    def prefer_near_ones(self, targets: Any) -> Any:
        return targets


class Async:
    @hookimpl
    async def llmkit_error(self) -> None: ...


class Hookless:
    pass


def found(name: str) -> Found:
    (one,) = (one for one in discover() if one.name == name)
    return one


def test_what_is_known_of_a_plugin(install: Callable[..., Any], plugins: SimpleNamespace) -> None:
    """A plugin is found with its package and the hooks of its class, in the order they fire."""
    install("mine", plugins.RateLimiter, "acme-plugins", "2.1")
    assert found("mine") == Found(
        "mine", "acme:Plugin", "acme-plugins", "2.1", plugins.RateLimiter, None, ("llmkit_pre_request", "llmkit_error")
    )
    assert found("mine").origin == "acme-plugins 2.1"
    assert found("mine").settings is plugins.RateLimiter.Config


def test_a_hook_under_another_name(install: Callable[..., Any]) -> None:
    """A method that says which hook it implements is seen as that."""
    install("renamed", Renamed)
    assert found("renamed").hooks == ("llmkit_route",)


@pytest.mark.parametrize(
    ("plugin", "error"),
    [
        (ImportError("no redis"), "it cannot be imported: ImportError: no redis"),
        (SystemExit(3), "it cannot be imported: SystemExit: 3"),
        (SyntaxError("what?"), "it cannot be imported: SyntaxError: what?"),
        ("text", "acme:Plugin is neither a class nor a factory"),
        (Odd, "its Config is not a subclass of Settings"),
        (
            Async,
            "broken.llmkit_error: a hook cannot be async (a generator that yields Ask or Wait serves sync and async)",
        ),
        (Hookless, "broken: it implements no hook"),
    ],
)
def test_a_plugin_that_cannot_be_used(
    plugin: Any, error: str, install: Callable[..., Any], plugins: SimpleNamespace
) -> None:
    """It is among the found with the reason, without its class, and the others are as they were."""
    install("broken", plugin)
    install("good", plugins.Plain)
    broken = found("broken")
    assert broken.plugin is None
    assert broken.error is not None
    assert broken.error.startswith(error)
    assert found("good").plugin is plugins.Plain


def test_ctrl_c_is_not_a_broken_plugin(install: Callable[..., Any]) -> None:
    """Who interrupts an import wants to stop."""
    install("slow", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        discover()


def test_only_what_is_asked_for_is_imported(install: Callable[..., Any], plugins: SimpleNamespace) -> None:
    """The others are found too, but not imported."""
    wanted, other = install("wanted", plugins.Plain), install("other", plugins.Plain)
    assert {one.name: one.plugin for one in discover(load=["wanted"]) if one.name in ("wanted", "other")} == {
        "wanted": plugins.Plain,
        "other": None,
    }
    assert (wanted.loads, other.loads) == (1, 0)


@pytest.mark.parametrize("backwards", [False, True])
def test_two_packages_with_one_name(backwards: bool, install: Callable[..., Any], plugins: SimpleNamespace) -> None:
    """The first by name has it, whatever the order on the path; the other is told of and not imported."""
    packages = ["beta", "acme"] if backwards else ["acme", "beta"]
    entries = {package: install("mine", plugins.Plain, package) for package in packages}
    first, second = (one for one in discover() if one.name == "mine")
    assert (first.distribution, first.error) == ("acme", None)
    assert (second.distribution, second.error) == ("beta", "the name is taken by acme 1.0")
    assert (entries["acme"].loads, entries["beta"].loads) == (1, 0)


def test_nobody_takes_the_name_of_the_five(install: Callable[..., Any], plugins: SimpleNamespace) -> None:
    """This package comes before any other, even one that is first in the alphabet."""
    install("taken", plugins.Plain, "aaa")
    install("taken", plugins.Router, "llmkit-plugins")
    assert [one.plugin for one in discover() if one.name == "taken"] == [plugins.Router, None]


def test_real_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages on the path are found by their metadata and imported; one that fails does not hinder the others."""

    def package(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        metadata = tmp_path / f"{name}-0.3.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
        (metadata / "entry_points.txt").write_text(f"[llmkit_plugins]\n{name} = {name}:Plugin\n")

    package(
        "llmkit_test_good",
        "import llmkit_plugins\nclass Plugin:\n    @llmkit_plugins.hookimpl\n    def llmkit_error(self): ...\n",
    )
    package("llmkit_test_bad", "raise RuntimeError('not today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    good, bad = found("llmkit_test_good"), found("llmkit_test_bad")
    assert good.plugin is sys.modules["llmkit_test_good"].Plugin
    assert (good.origin, good.value, good.hooks) == (
        "llmkit_test_good 0.3",
        "llmkit_test_good:Plugin",
        ("llmkit_error",),
    )
    assert (bad.plugin, bad.error) == (None, "it cannot be imported: RuntimeError: not today")


def test_a_package_without_metadata(install: Callable[..., Any], plugins: SimpleNamespace) -> None:
    """A half-removed package, or none at all, still has its plugin; only its name is not known."""

    class Gone:
        @property
        def name(self) -> str:
            raise KeyError("Name")

    install("orphan", plugins.Plain).dist = Gone()
    install("nobody", plugins.Plain).dist = None
    assert found("orphan").origin == found("nobody").origin == "an unknown package"
    assert found("orphan").plugin is plugins.Plain
