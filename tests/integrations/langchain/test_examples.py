"""The examples run as they are shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_quickstart():
    """The first answer is the first provider's; when that one fails, the second's, and the route is told."""
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "langchain_quickstart.py"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Hello from the first one.",
        "I stepped in.",
        "{'target': 'cheap', 'attempts': 2, 'shared': False}",
    ]
