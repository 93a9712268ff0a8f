"""The counters and histograms: what they add up to, who else is told, how many labels there can be."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from llmkit_plugins import Attempt, Target, Usage
from llmkit_plugins.plugins.observability.cost import Prices
from llmkit_plugins.plugins.observability.counting import TARGETS, Counting
from llmkit_plugins.plugins.observability.instruments import OVERFLOW, Bounded, Exemplar, Family, Histogram, Sum
from llmkit_plugins.plugins.observability.metrics import Metrics


def test_a_sum_adds_and_is_set():
    """A counter is what was added; a gauge may be set."""
    total = Sum()
    total.add(1.0)
    total.add(2.5)
    assert total.value == 3.5
    total.set(1.0)
    assert total.value == 1.0


def test_what_is_no_number_spoils_nothing():
    """A backend that tells None for its tokens loses these, and nobody else's."""
    total = Sum()
    for amount in (1.0, None, 2):
        total.add(amount)
    assert total.value == 3.0


@pytest.mark.parametrize(("value", "bucket"), [(0.0, 0), (1.0, 0), (1.001, 1), (2.0, 1), (9.0, 2)])
def test_a_value_falls_into_the_first_bucket_that_holds_it(value, bucket):
    """A bound belongs to its bucket; beyond the last there is one more."""
    histogram = Histogram((1.0, 2.0))
    histogram.add(value)
    assert histogram.counts == [int(place == bucket) for place in range(3)]
    assert histogram.total == value


def test_a_bucket_remembers_its_last_trace():
    """An exemplar is kept with its value until the next one comes; a value without one leaves it."""
    histogram = Histogram((1.0,))
    histogram.remember(0.1, Exemplar("t1", "s1", 1.0))
    histogram.remember(0.2, Exemplar("t2", "s2", 2.0))
    histogram.add(0.3)
    assert histogram.exemplars == {0: (0.2, Exemplar("t2", "s2", 2.0))}


def test_what_is_added_waits_until_somebody_reads():
    """Then it is added up, once."""
    total, histogram = Sum(), Histogram((1.0,))
    for _ in range(3):
        total.add(1.0)
        histogram.add(0.5)
    assert (len(total.noted), len(histogram.noted)) == (3, 3)
    for _ in range(2):
        assert (total.value, histogram.counts, histogram.total) == (3.0, [3, 0], 1.5)
    assert not total.noted
    assert not histogram.noted


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_nothing_is_lost_between_threads(in_threads):
    """Two threads add while two read all the time: everything is counted once, without a lock around it."""
    total, histogram, working = Sum(), Histogram((1.0,)), [True, True]

    def work() -> None:
        for _ in range(100_000):
            total.add(1.0)
            histogram.add(0.5)
        working.pop()

    def read() -> None:
        while working:
            assert total.value >= 0.0
            assert histogram.total >= 0.0

    assert in_threads(work, work, read, read) == [None] * 4
    assert total.value == 200_000
    assert (histogram.counts, histogram.total) == ([200_000, 0], 100_000)


@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
def test_relays_are_told_of_everything_that_comes(kind):
    """Who is added later hears what comes later, of the children there are and of those to come."""
    family: Family = Family("name", kind, "", ("label",), (1.0,))
    told: list[tuple[str, float]] = []
    family.of("old").add(1.0)
    family.relay(lambda values: lambda amount: told.append((values[0], amount)))
    family.of("old").add(2.0)
    family.of("new").add(3.0)
    assert told == [("old", 2.0), ("new", 3.0)]
    old = family.of("old")
    assert (old.total if kind == "histogram" else old.value) == 3.0


def test_a_value_that_comes_many_times_is_told_once():
    """With how many times; its sum and its bucket have all of them."""
    told: list[tuple[float, int]] = []
    histogram = Histogram((1.0,), [lambda value, times: told.append((value, times))])
    histogram.add_many(0.5, 200)
    assert (histogram.counts, histogram.total) == ([200, 0], 100.0)
    assert told == [(0.5, 200)]


def test_setting_a_gauge_tells_relays_the_change():
    """Those who add up hear what to add."""
    told: list[float] = []
    gauge = Sum([told.append])
    gauge.set(1.0)
    gauge.set(1.0)
    gauge.set(0.0)
    assert told == [1.0, 0.0, -1.0]


def test_labels_beyond_the_bound_overflow():
    """The first so many keep their names for ever; later ones share one."""
    names = Bounded(2)
    assert [names.admit(name) for name in "abca"] == [("a",), ("b",), (OVERFLOW,), ("a",)]


def test_series_beyond_the_bound_share_one():
    """However many models there are, the series do not grow past the bound and one."""
    metrics = Metrics(max_label_sets=2)
    series = {model: metrics.series("p", model) for model in ("m1", "m2", "m3", "m4", "m1")}
    assert series["m3"] is series["m4"] is not series["m1"]
    series["m4"].cost.add(1.0)
    assert dict(metrics.request_cost.children()).keys() == {(OVERFLOW, OVERFLOW)}


def test_targets_made_for_each_call_are_forgotten():
    """What was recorded of them is not."""
    counting = Counting(Metrics(), Prices())
    for _ in range(TARGETS + 1):
        attempt = Attempt(1, Target("t", "p", "m", 1.0, 1.0), usage=Usage(1, 1))
        counting.attempted(attempt, None)
    assert len(counting._series) == 1
    assert counting.metrics.request_tokens.of("p", "m", "input").value == TARGETS + 1
