"""The examples run as they stand, and are what the documentation shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

TOLD = {
    "litellm_router.py": """\
I stepped in.
I stepped in.
I stepped in.
ann may come back in \\d+ seconds
20 streams, 1 request: I stepped in.
""",
    "litellm_sdk.py": """\
Hello, Ann.
Hello, Ann.
1 vector
ann may come back in \\d+ seconds
""",
}


@pytest.mark.parametrize("example", TOLD)
def test_it_runs(example):
    """It tells what it should."""
    command = [sys.executable, ROOT / "examples" / example]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    assert re.fullmatch(TOLD[example], told.stdout), told.stdout + told.stderr


@pytest.mark.parametrize("example", TOLD)
def test_it_is_what_the_documentation_shows(example):
    """To the letter, but for what it says of itself."""
    _, _, code = (ROOT / "examples" / example).read_text().split('"""', 2)
    assert code.lstrip() in (ROOT / "docs" / "litellm.md").read_text()
