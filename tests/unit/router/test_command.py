"""``llmkit explain``: what the router thinks of each target before its first call."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmkit_plugins import cli

SETTINGS = """
plugins = ["router"]

[router]
optimize_for = "cost"

[[targets]]
name = "fast"
provider = "p"
model = "large"
input_price = 2.0
output_price = 10.0
serves = ["large"]

[[targets]]
name = "cheap"
provider = "p"
model = "small"
input_price = 0.2
output_price = 1.0

[[targets]]
name = "own"
provider = "q"
model = "any"
"""


@pytest.fixture
def explain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., SimpleNamespace]:
    """``explain("--model", "large")``: the exit code and what was written, for the settings above or others."""
    monkeypatch.setenv("COLUMNS", "120")  # a line for each target

    def run(*argv: str, settings: str = SETTINGS) -> SimpleNamespace:
        file = tmp_path / "llmkit.toml"
        file.write_text(settings)
        code = cli.main(["explain", str(file), *argv])
        return SimpleNamespace(code=code, out=capsys.readouterr().out)

    return run


def test_the_targets_are_ranked(explain) -> None:
    """The best first, with what the call would cost there; who has no price comes last."""
    told = explain("--prompt-tokens", "1000", "--max-tokens", "100")
    assert told.code == 0
    summary, heading, *rows = told.out.splitlines()
    assert summary == "by cost, for 1000 input and 100 output tokens"
    assert heading.startswith("target")
    assert [row.split()[0] for row in rows] == ["cheap", "fast", "own"]
    assert "$0.000300" in rows[0]
    assert "$0.003000" in rows[1]
    assert "unknown" in rows[2]


def test_a_program_can_read_it(explain) -> None:
    """With --json the same, field by field."""
    told = json.loads(explain("--json", "--optimize-for", "latency").out)
    assert told["mode"] == "latency"
    assert {row["target"] for row in told["rows"]} == {"fast", "cheap", "own"}
    assert all(row["prediction"]["seconds"] > 0 for row in told["rows"])


def test_only_who_serves_the_model_is_told(explain) -> None:
    """A target that cannot answer for the model asked for is not in the table."""
    assert "fast" in explain("--model", "large").out
    assert "fast" not in explain("--model", "tiny").out


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("plugins = []", "add 'router' to plugins"),
        ('plugins = ["router"]', "there is no target to choose"),
        (SETTINGS.replace('"cost"', '"price"'), "router.optimize_for"),
    ],
)
def test_what_cannot_be_explained_is_an_error(explain, settings: str, told: str) -> None:
    """Without a router, without targets, or with wrong settings, it says what would be right."""
    result = explain(settings=settings)
    assert result.code == 1
    assert told in result.out
