"""What is documented is what is there: hooks, settings, metrics, public names, commands."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest

from llmkit_plugins.call import Attempt, Call, Response, Target
from llmkit_plugins.discovery import discover
from llmkit_plugins.engine.plan import HOOKS
from llmkit_plugins.errors import FAILOVER_KINDS
from llmkit_plugins.kit_settings import KitSettings, TargetSettings
from llmkit_plugins.plugins.observability.metrics import Metrics

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def first_cells(text: str) -> list[str]:
    """The code in the first cell of each row of the tables in *text*."""
    return re.findall(r"^\| `([^`(]+)", text, re.MULTILINE)


def section(page: str, title: str) -> str:
    """The text below a heading of the second level."""
    parts = re.split(r"^## ", (DOCS / page).read_text(), flags=re.MULTILINE)
    return next(part for part in parts if part.splitlines()[0] == title)


def test_every_hook_is_documented() -> None:
    """The table of the hooks page lists the hooks, all of them and no other, with their arguments."""
    listed = re.findall(r"^\| `(llmkit_\w+)\(([\w, ]*)\)`", (DOCS / "hooks.md").read_text(), re.MULTILINE)
    assert {name: tuple(args.split(", ")) for name, args in listed} == HOOKS


@pytest.mark.parametrize("word", [Call, Target, Attempt, Response])
def test_what_hooks_are_given_is_documented(word: type) -> None:
    """The hooks page has a table of each word's attributes and methods, all but the engine's own and no other."""
    source = inspect.getsource(word)
    engines = set(re.findall(r'^    (\w+): [^\n]+\n    """The engine\'s:', source, re.MULTILINE))
    there = {name for name in dir(word) if not name.startswith("_")} | {one.name for one in dataclasses.fields(word)}
    table = (
        section("hooks.md", "What hooks are given").partition(f"| `{word.__name__}` | what |")[2].partition("\n\n")[0]
    )
    named = set(re.findall(r"`(\w+)(?:\(\w+\))?`", table))
    listed = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\|([^|]+)\|", table, re.MULTILINE))))
    assert there - engines - named == set()
    assert listed <= there


@pytest.mark.parametrize(("title", "model"), [("The kit", KitSettings), ("targets", TargetSettings)])
def test_every_setting_of_the_kit_is_documented(title: str, model: type[KitSettings]) -> None:
    """The tables of the settings page list the kit's settings and a target's."""
    assert first_cells(section("settings.md", title)) == list(model.model_fields)


@pytest.mark.parametrize(
    "plugin", [found for found in discover() if found.distribution == "llmkit-plugins"], ids=lambda f: f.name
)
def test_every_setting_of_a_plugin_is_documented(plugin) -> None:
    """Each plugin has a section of its own on the settings page, with all its settings in their order."""
    assert first_cells(section("settings.md", plugin.name)) == list(plugin.settings.model_fields)


def test_every_metric_is_documented() -> None:
    """The table of the metrics page lists every metric with its labels."""
    real = {family.name: (family.kind, set(family.labels)) for family in Metrics()}
    rows = re.findall(r"^\| `(llmkit_\w+)` \| (\w+) \| ([^|]*)\|", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    assert {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == real


@pytest.mark.parametrize("package", ["llmkit_plugins", "llmkit_plugins.testing", "llmkit_langchain", "llmkit_litellm"])
def test_every_public_name_is_documented(package: str) -> None:
    """The page of public names has a section for each package, which lists its ``__all__``."""
    public = importlib.import_module(package).__all__
    assert first_cells(section("api.md", package)) == list(public)


def test_every_kind_of_error_says_whether_it_fails_over() -> None:
    """The table of kinds says *yes* for those another target is tried after."""
    rows = [row for row in section("errors.md", "Kinds").splitlines() if row.startswith("| `")]
    moved_on = {kind for row in rows if "| yes |" in row for kind in re.findall(r"`(\w+)`", row)}
    assert moved_on == FAILOVER_KINDS


def test_the_docs_point_at_what_is_there() -> None:
    """Every link from one file of the project to another has something at its end."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())]
    assert links
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_the_proxy_is_set_up_alike_everywhere() -> None:
    """README, page and example have the same callbacks: without LiteLLM's own there is no ``/metrics`` for ours."""
    files = [ROOT / "README.md", DOCS / "litellm.md", ROOT / "examples" / "litellm_proxy" / "config.yaml"]
    set_up = [re.findall(r"^ *callbacks: (\[.*\])$", file.read_text(), re.MULTILINE) for file in files]
    assert set_up == [['["prometheus", "llmkit_litellm.proxy.handler"]']] * 3


def test_every_page_is_in_the_table_of_contents() -> None:
    """What ``make docs`` builds is what lies in docs/."""
    listed = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md"))


def test_the_make_targets_the_docs_name_exist() -> None:
    """A command printed in README or CONTRIBUTING is one that ``make`` knows."""
    pages = [(ROOT / page).read_text() for page in ("README.md", "CONTRIBUTING.md")]
    named = {target for page in pages for target in re.findall(r"(?:`|^)make ([a-z-]+)", page, re.MULTILINE)}
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= known
