"""One record for each request, warnings for targets, circuits and limits, and never what was said."""

from __future__ import annotations

import json
import logging
from contextlib import suppress

import pytest

from llmkit_plugins import Call, RateLimited, Usage
from llmkit_plugins.events import CircuitChanged, CircuitsExhausted, LimitReached
from llmkit_plugins.plugins.observability import JSONFormatter
from llmkit_plugins.testing import MODES, Failure, Last, ScriptedBackend, drive


@pytest.fixture
def records(caplog):
    """The records of one logger, in order."""
    caplog.set_level(logging.INFO, "llmkit")
    return lambda name: [record for record in caplog.records if record.name == name]


@pytest.mark.parametrize("mode", MODES)
def test_one_record_for_each_request(mode, make_kit, records, exporter):
    """It has the ids, the target, tokens, cost, seconds and outcome."""
    drive(make_kit(), call := Call("hi", model="gpt"), ScriptedBackend({"a": [Failure()]}), mode)
    (record,) = records("llmkit.request")
    assert record.getMessage() == "chat gpt: ok"
    (request,) = [span for span in exporter.get_finished_spans() if span.parent is None]
    assert record.llmkit == {
        "request_id": call.id,
        "trace_id": f"{request.context.trace_id:032x}",
        "span_id": f"{request.context.span_id:016x}",
        "operation": "chat",
        "model": "gpt",
        "outcome": "ok",
        "error_type": None,
        "target": "b",
        "provider": "p2",
        "attempts": 2,
        "shared_with": None,
        "input_tokens": 5,
        "output_tokens": 3,
        "cost_usd": pytest.approx((5 * 3.0 + 3 * 4.0) / 1e6),
        "seconds": 0.0,
    }


def test_a_name_that_cannot_be_written(make_kit, records):
    """Half of an emoji in a model's name is replaced, so that whatever writes the record can."""
    drive(make_kit(), Call("hi", model="gpt-\ud83d"), ScriptedBackend(), "run")
    (record,) = records("llmkit.request")
    assert record.getMessage() == "chat gpt-\\ud83d: ok"
    assert record.llmkit["model"] == "gpt-\\ud83d"


COSTS = {
    "known": (["x", Last("y", Usage(5, 3))], (5 * 1.0 + 3 * 2.0) / 1e6),
    "nobody told the tokens": (["x", "y"], None),
    "nobody answered": ([Failure("bad_request")], 0),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("script", "cost"), COSTS.values(), ids=COSTS)
def test_an_unknown_cost_is_no_zero(mode, script, cost, make_kit, records):
    """It is None: an answer whose tokens nobody told cost something, and only what nobody answered cost nothing."""
    with suppress(Failure):
        drive(make_kit(), Call("hi"), ScriptedBackend(default=script), mode)
    (record,) = records("llmkit.request")
    assert record.llmkit["cost_usd"] == (cost if cost is None else pytest.approx(cost))


@pytest.mark.parametrize("mode", MODES)
def test_no_record_says_what_was_said(mode, make_kit, records, caplog):
    """Neither prompt, answer, key, nor an error's text."""
    backend = ScriptedBackend({"a": [ValueError("key sk-1234 is wrong")]}, default=["secret answer"])
    kit = make_kit()
    for _ in range(2):
        with suppress(ValueError):
            drive(kit, Call([{"role": "user", "content": "secret"}], params={"api_key": "sk-1234"}), backend, mode)
        kit.targets = kit.targets[1:]
    told = "\n".join(JSONFormatter().format(record) for record in records("llmkit.request"))
    assert "ValueError" in told
    assert "secret" not in told
    assert "sk-1234" not in told


def test_no_record_is_made_that_nobody_wants(make_kit, caplog):
    """Above INFO a request is not written down at all."""
    caplog.set_level(logging.WARNING, "llmkit")
    make_kit().call(Call("hi"), ScriptedBackend())
    assert caplog.records == []


def test_a_circuit_that_changes_is_a_warning(make_kit, records):
    """With its target, both states and the reason."""
    make_kit().events.publish(CircuitChanged("a", "closed", "open", "failure rate 0.8"))
    (record,) = records("llmkit.state")
    assert (record.levelno, record.getMessage()) == (logging.WARNING, "circuit of a: open (failure rate 0.8)")
    assert record.llmkit == {"target": "a", "before": "closed", "after": "open", "why": "failure rate 0.8"}


def test_a_limit_that_stays_used_up_does_not_flood(make_kit, records, clock):
    """The first time is told, then once a minute, with how often it was in between."""
    kit = make_kit()
    for _ in range(100):
        kit.events.publish(LimitReached(Call(), "per user", "refused", 1.0))
        clock.advance(1.0)
    assert [(record.levelno, record.llmkit["times_before"]) for record in records("llmkit.state")] == [
        (logging.WARNING, 0),
        (logging.WARNING, 59),
    ]


def told_of(records):
    """Target, why and how often before, of each record of a target that fails."""
    facts = [record.llmkit for record in records("llmkit.state")]
    return [(fact["target"], fact["error_type"], fact["times_before"]) for fact in facts]


@pytest.mark.parametrize("kind", ["auth", "rate_limit", "overloaded", "timeout", "connection", "server"])
def test_a_target_that_fails_is_told_though_others_answer(kind, make_kit, records):
    """By its name and the kind, at WARNING: no caller notices, and nobody else says which one it was."""
    drive(make_kit(), Call("hi"), ScriptedBackend({"a": [Failure(kind)]}), "run")
    assert told_of(records) == [("a", kind, 0)]
    (record,) = records("llmkit.state")
    assert (record.levelno, record.getMessage()) == (logging.WARNING, f"target a fails: {kind}")


def test_a_storm_of_failures_does_not_flood(make_kit, records, clock):
    """Each kind at each target is told once a minute, with how often it was in between."""
    kit = make_kit()
    for _ in range(100):
        kit.call(Call(), ScriptedBackend({"a": [Failure("auth")]}))
        with suppress(Failure):
            kit.call(Call(), ScriptedBackend({"a": [Failure("server")], "b": [Failure("server")]}))
        clock.advance(1.0)
    first, later = [("a", "auth"), ("a", "server"), ("b", "server")], {59}
    assert told_of(records)[:3] == [(*each, 0) for each in first]
    assert [each[:2] for each in told_of(records)[3:]] == first
    assert {before for *_, before in told_of(records)[3:]} == later


@pytest.mark.parametrize("kind", ["bad_request", "context_length", "content_filter"])
def test_a_wrong_request_is_no_failure_of_its_target(kind, make_kit, records):
    """Whoever asks wrongly gets no warning written about a target."""
    with suppress(Failure):
        make_kit().call(Call(), ScriptedBackend(default=[Failure(kind)]))
    assert records("llmkit.state") == []


def test_an_error_that_nobody_knows_is_told_by_its_class(make_kit, records):
    """Its text stays out of it."""
    with suppress(ValueError):
        make_kit().call(Call(), ScriptedBackend({"a": [ValueError("key sk-1234 is wrong")]}))
    assert told_of(records) == [("a", "ValueError", 0)]
    assert "sk-1234" not in JSONFormatter().format(records("llmkit.state")[0])


def test_failures_are_told_without_metrics_and_spans(records, make_kit):
    """Where only the log is wanted, it says the same."""
    make_kit(metrics=(), traces=False).call(Call(), ScriptedBackend({"a": [Failure("auth")]}))
    assert told_of(records) == [("a", "auth", 0)]


def test_too_few_closed_circuits_are_a_warning(make_kit, records):
    """With the targets, once a minute."""
    kit = make_kit()
    for _ in range(2):
        kit.events.publish(CircuitsExhausted(Call(), ("a", "b")))
    (record,) = records("llmkit.state")
    assert record.getMessage() == "too few circuits are closed, used all the same: a, b"


def test_records_as_json(make_kit, records, plugin):
    """One line, with the facts beside time, level and message; a traceback is in it."""

    def refuse(call):
        raise RateLimited("per user", "u", 1.0)

    with suppress(RateLimited):
        make_kit(plugin(pre_request=refuse)).call(Call("hi"), ScriptedBackend())
    line = JSONFormatter().format(records("llmkit.request")[0])
    told = json.loads(line)
    assert "\n" not in line
    assert (told["level"], told["logger"], told["outcome"]) == ("INFO", "llmkit.request", "refused")
    assert (told["error_type"], told["target"], told["cost_usd"]) == ("RateLimited", None, 0)
    error = logging.LogRecord("x", logging.ERROR, "f", 1, "broke: %s", ("it",), (ValueError, ValueError("v"), None))
    assert json.loads(JSONFormatter().format(error))["exception"] == "ValueError: v"


def test_json_that_can_be_written():
    """Half of an emoji is written as JSON has it: a handler could not encode it otherwise."""
    line = JSONFormatter().format(logging.LogRecord("x", logging.INFO, "f", 1, "model \ud83d", (), None))
    assert line.encode()
    assert json.loads(line)["message"] == "model \ud83d"
