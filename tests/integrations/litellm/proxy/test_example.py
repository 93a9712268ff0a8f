"""The example runs as it stands, and is what the documentation shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
EXAMPLE = ROOT / "examples" / "litellm_proxy"

TOLD = """\
30 clients: 1 answer, 1 request to a provider
2\\d answers while one provider is down
then 429, to come back in \\d+ s
llmkit_upstream_calls_saved_total\\{by="(sharing|answer)"\\} .*
"""


def test_it_runs():
    """Sharing, failover, a user's limit and metrics, through a proxy that it starts and stops."""
    told = subprocess.run([sys.executable, EXAMPLE / "run.py"], capture_output=True, text=True, timeout=100)
    assert told.returncode == 0, told.stderr
    assert re.match(TOLD, told.stdout), told.stdout + told.stderr


@pytest.mark.parametrize("file", ["config.yaml", "llmkit.toml"])
def test_it_is_what_the_documentation_shows(file):
    """To the letter."""
    assert (EXAMPLE / file).read_text() in (ROOT / "docs" / "litellm.md").read_text()
