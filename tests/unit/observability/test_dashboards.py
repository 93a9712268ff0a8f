"""The Grafana dashboard and the Prometheus rules speak of metrics that exist, with labels and values they can have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from llmkit_plugins.errors import ErrorKind
from llmkit_plugins.plugins.observability.exposition import metrics_on

FILES = Path(__file__).parents[3] / "dashboards"

SELECTOR = re.compile(r"\b(llmkit_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")

VALUES = {
    "outcome": {"ok", "error", "refused", "cancelled"},
    "state": {"closed", "open", "half_open"},
    "direction": {"input", "output", "cached", "reasoning"},
    "action": {"refused", "waited", "passed"},
    "error_type": set(get_args(ErrorKind)),
    "reason": {"rate_limited", "circuit_open", "no_target", "plugin_failed", "other"},
}


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """The labels of each sample there can be, by its name, as they are exposed."""
    registry = CollectorRegistry()
    for family in metrics_on(registry):
        family.of(*family.labels)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def dashboard() -> dict[str, Any]:
    return json.loads((FILES / "llmkit.json").read_text())


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((FILES / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]
    for annotation in dashboard()["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for rule in rules():
        yield rule["alert"], rule["expr"]


EXPRESSIONS = list(expressions())
each_expression = pytest.mark.parametrize(
    "expression", [e for _, e in EXPRESSIONS], ids=[name for name, _ in EXPRESSIONS]
)


@each_expression
def test_every_metric_exists_with_those_labels(expression, exposed):
    """Each selector names a sample that is exposed, by labels that it has; so does each grouping."""
    selectors = SELECTOR.findall(expression)
    names = [name for name, _ in selectors if name != "llmkit_pre_request"]
    assert names
    assert set(names) <= exposed.keys()
    for name, matchers in selectors:
        assert {label for label, _ in MATCHER.findall(matchers)} <= exposed.get(name, set())
    grouped = {label.strip() for labels in GROUPING.findall(expression) for label in labels.split(",")} - {""}
    assert grouped <= set.union(*(exposed[name] for name in names))


@each_expression
def test_every_value_can_be(expression):
    """What labels are compared with are values that the plugin writes."""
    for label, value in MATCHER.findall(expression):
        if label in VALUES:
            assert set(value.split("|")) <= VALUES[label]


@each_expression
def test_every_bracket_is_closed(expression):
    """An expression that Prometheus could not read is found here."""
    without_texts = re.sub(r'"[^"]*"', '""', expression)
    for opening, closing in ("()", "{}", "[]"):
        assert without_texts.count(opening) == without_texts.count(closing)


def test_the_dashboard_shows_everything(exposed):
    """Each metric there is has a panel: an alert alone says neither since when nor how much."""
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    shown = {name for expression in panels for name, _ in SELECTOR.findall(expression)}
    families = {family.name for family in metrics_on(CollectorRegistry())}
    assert {name for name in families if not any(seen.startswith(name) for seen in shown)} == set()


def test_the_panels_fit_together():
    """Each has an id of its own, a description, and a place that no other has."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not mine & cells
        assert max(x for x, _ in mine) < 24
        cells |= mine
    assert all(panel["description"] for panel in panels if panel["type"] != "row")
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency", "Cost", "Errors", "Circuits", "Limits", "Sharing", "Routing", "Own overhead"]


def test_every_alert_says_what_is_wrong():
    """A name of its own, a severity, a summary and a description."""
    assert len({rule["alert"] for rule in rules()}) == len(rules()) >= 5
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}
