"""The runs of a chain, an agent or a graph: their calls are one trace, where the application has none of its own."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.trace import StatusCode

from llmkit_plugins import Call
from llmkit_plugins.plugins.observability import ObservabilityPlugin, runs
from llmkit_plugins.testing import ScriptedBackend


def ask(kit, *ids: str) -> None:
    for id in ids:
        kit.call(Call("hi", id=id), ScriptedBackend())


def runs_of(kit) -> runs.RunSpans:
    return kit.plugins["observability"].runs


def test_the_calls_of_a_tree_are_one_trace(make_kit, exporter):
    """However deep they are, below one span, which ends with the root."""
    kit = make_kit()
    tree = runs_of(kit)
    tree.begin("root", None, "agent")
    tree.begin("step", "root", "step")
    for call, parent in (("one", "step"), ("two", "root")):
        assert tree.join(call, parent)
        ask(kit, call)
        tree.end(call)
    tree.end("step")
    assert [span.name for span in exporter.get_finished_spans()] == ["chat m1", "llmkit chat"] * 2
    tree.end("root")
    *_, root = exporter.get_finished_spans()
    assert (root.name, root.parent, root.attributes["llmkit.outcome"]) == ("invoke_workflow agent", None, "ok")
    requests = [span for span in exporter.get_finished_spans() if span.name == "llmkit chat"]
    assert [span.parent for span in requests] == [root.context] * 2
    assert not tree


def test_two_trees_are_two_traces(make_kit, exporter):
    """A call is in its own, and one in no tree begins a trace."""
    kit = make_kit()
    tree = runs_of(kit)
    for name in "xy":
        tree.begin(name, None, None)
        tree.join(f"{name}1", name)
    ask(kit, "y1", "x1", "alone")
    tree.end("x")
    tree.end("y")
    parents = [span.parent for span in exporter.get_finished_spans() if span.name == "llmkit chat"]
    x, y = [span.context for span in exporter.get_finished_spans() if span.name == "invoke_workflow"]
    assert parents == [y, x, None]


def test_a_run_that_is_told_twice_is_one(make_kit, exporter):
    """Several handlers of a kit tell of the same."""
    tree = runs_of(make_kit())
    for _ in range(2):
        tree.begin("root", None, "agent")
    for _ in range(2):
        tree.end("root")
    assert len(exporter.get_finished_spans()) == 1


ENDS = [
    (RuntimeError("sk-1234"), "error", StatusCode.ERROR),
    (asyncio.CancelledError(), "cancelled", StatusCode.UNSET),
    (GeneratorExit(), "cancelled", StatusCode.UNSET),
]


@pytest.mark.parametrize(("error", "outcome", "status"), ENDS, ids=["error", "cancelled", "abandoned"])
def test_how_a_tree_ends(error, outcome, status, make_kit, exporter):
    """Only an error is one, by its class, without its text."""
    tree = runs_of(make_kit())
    tree.begin("root", None, "agent")
    tree.end("root", error)
    (span,) = exporter.get_finished_spans()
    assert (span.attributes["llmkit.outcome"], span.status.status_code) == (outcome, status)
    assert span.attributes.get("error.type") == ("RuntimeError" if outcome == "error" else None)
    assert "sk-1234" not in span.to_json()


def test_the_applications_own_span_makes_it_needless(make_kit, spans, tracers):
    """Where one is current the calls are its children, as without a tree."""
    kit = make_kit()
    with tracers.get_tracer("app").start_as_current_span("app") as app:
        runs_of(kit).begin("root", None, "agent")
        assert not runs_of(kit).join("one", "root")
        ask(kit, "one")
    assert spans()["llmkit chat"].parent == app.get_span_context()
    assert "invoke_workflow agent" not in spans()


def test_a_tree_is_sampled_as_a_whole(make_kit, exporter):
    """The ratio is asked once, for all its calls."""
    kit = make_kit(trace_ratio=0.0)
    tree = runs_of(kit)
    tree.begin("root", None, "agent")
    tree.join("one", "root")
    kit.plugins["observability"].recorder.tracing._ratio = 1.0
    ask(kit, "one")
    tree.end("root")
    assert exporter.get_finished_spans() == ()


def test_who_names_a_parent_wins(registry, tracers, exporter):
    """The application's own function is asked before the tree."""
    from llmkit_plugins import LLMKit, Target

    run = tracers.get_tracer("runs").start_span("run")
    plugin = ObservabilityPlugin(registry, tracer_provider=tracers, parent=lambda call: run if call.id == "a" else None)
    kit = LLMKit([plugin], [Target("a", "p", "m", 1, 1)])
    plugin.runs.begin("root", None, None)
    for call in "ab":
        plugin.runs.join(call, "root")
    ask(kit, "a", "b")
    plugin.runs.end("root")
    named, treed = [span.parent for span in exporter.get_finished_spans() if span.name == "llmkit chat"]
    assert named == run.get_span_context() != treed
    run.end()


def test_trees_whose_end_nobody_tells_are_bounded(make_kit, exporter, monkeypatch):
    """The oldest ends when there are too many, and its span with it."""
    monkeypatch.setattr(runs, "MOST", 10)
    tree = runs_of(make_kit())
    for number in range(8):
        tree.begin(f"root {number}", None, "agent")
        tree.join(f"call {number}", f"root {number}")
    assert len(tree) <= 10
    assert len(exporter.get_finished_spans()) == 3
    tree.end("root 0")
    assert len(exporter.get_finished_spans()) == 3


def test_without_spans_there_is_nothing_to_tell(registry):
    """Nor is there where there is no SDK."""
    assert ObservabilityPlugin(registry, traces=False).runs is None
    tree = ObservabilityPlugin(registry).runs
    assert tree is not None
    tree.begin("root", None, "agent")
    assert not tree
