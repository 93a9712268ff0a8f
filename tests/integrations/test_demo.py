"""The demo: every act ends as it should, and says so."""

from __future__ import annotations

import logging

import pytest

from llmkit_plugins.cli import main


def test_every_act_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, a tick for each act, and a summary with each provider; the log levels are as they were."""
    before = logging.getLogger("llmkit").level
    assert main(["demo", "--requests", "24"]) == 0
    told = capsys.readouterr().out
    assert told.count("✓") == 5
    assert "✗" not in told
    for goal in ("latency", "cost", "reliability"):
        assert f"by {goal}" in told.replace("\n", " ")
    for provider in ("swift", "steady", "thrifty"):
        assert provider in told
    assert "/metrics" in told
    assert logging.getLogger("llmkit").level == before


def test_too_few_requests_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The mistake is named."""
    with pytest.raises(SystemExit):
        main(["demo", "--requests", "1"])
    assert "--requests" in capsys.readouterr().err
