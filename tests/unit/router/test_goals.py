"""What a call may want for itself."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from llmkit_plugins import Call, NoTarget

PRICES = {"a": (5.0, 20.0), "b": (1.0, 4.0), "c": (0.1, 0.4)}
OPTIONS = {
    "a": {"metadata": {"tags": ["eu", "gpu"]}},
    "b": {"metadata": {"tags": "eu"}},
    "c": {"metadata": {"tags": None}},
}


def call(**wanted: Any) -> Call:
    return Call("hi", "m", metadata={"route": wanted})


@pytest.fixture
def cheap_c(lab):
    """By cost ``c`` is the best, by latency ``a``."""
    made = lab(prices=PRICES, options=OPTIONS, optimize_for="cost")
    made.teach(a=1.0, b=3.0, c=9.0)
    return made


@pytest.mark.parametrize(
    ("wanted", "best"),
    [
        ({}, "c"),
        ({"optimize_for": "latency"}, "a"),
        ({"max_latency_seconds": 6.0}, "b"),
        ({"optimize_for": "latency", "max_cost_usd": 0.001}, "b"),
        ({"optimize_for": "latency", "min_success_rate": 0.5}, "a"),
        ({"only": ["b"]}, "b"),
        ({"only": "b"}, "b"),
        ({"tags": ["eu"]}, "b"),
        ({"tags": ["eu", "gpu"]}, "a"),
        ({"tags": "eu", "optimize_for": "latency"}, "a"),
        ({"optimize_for": None}, "c"),
    ],
)
def test_a_call_may_want_something_else(cheap_c, wanted: dict[str, Any], best: str) -> None:
    """Each goal may be given with the call, for this call alone."""
    assert cheap_c.router.route(call(**wanted)).target.name == best
    assert cheap_c.router.route(Call("hi", "m")).target.name == "c"


@pytest.mark.parametrize("wanted", [{"only": ["x"]}, {"tags": ["mars"]}])
def test_where_no_target_will_do_it_is_said(cheap_c, wanted: dict[str, Any]) -> None:
    """A call that accepts none of the targets goes nowhere, and hears why for each."""
    with pytest.raises(NoTarget) as refused:
        cheap_c.router.route(call(**wanted))
    assert refused.value.reasons.keys() == {"a", "b", "c"}


@pytest.mark.parametrize(
    "wanted",
    [
        {"optimize_for": "price"},
        {"optimize_for": ["latency"]},
        {"max_latency_seconds": "3"},
        {"max_latency_seconds": -1},
        {"max_latency_seconds": float("nan")},
        {"max_cost_usd": True},
        {"max_cost_usd": 10**400},
        {"min_success_rate": 99},
        {"only": 7},
        {"tags": [7]},
        {"optimise_for": "latency"},
        {7: 7},
    ],
)
def test_nonsense_is_ignored_and_logged_once(cheap_c, wanted: dict[str, Any], caplog: Any) -> None:
    """A wrong value breaks no call: it is as if it were not there, which is logged the first time."""
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert cheap_c.router.route(Call("hi", "m", metadata={"route": wanted})).target.name == "c"
    assert len(caplog.records) == 1
    assert "route" in caplog.text


def test_what_is_no_table_is_ignored(cheap_c, caplog: Any) -> None:
    """The same where the whole is not a table."""
    assert cheap_c.router.route(Call("hi", "m", metadata={"route": "latency"})).target.name == "c"
    assert len(caplog.records) == 1


def test_other_metadata_is_not_looked_at(cheap_c, caplog: Any) -> None:
    """What an application tells other plugins is none of the router's business."""
    for metadata in ({"only": ["a"], "user": "ann"}, {"route": None}):
        assert cheap_c.router.route(Call("hi", "m", metadata=metadata)).target.name == "c"
    assert not caplog.records
