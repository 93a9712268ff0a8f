"""The examples run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_the_router_quickstart():
    """Both answers come from the provider that works."""
    told = subprocess.run(
        [sys.executable, EXAMPLES / "litellm_router_quickstart.py"], capture_output=True, text=True, timeout=60
    )
    assert (told.returncode, told.stdout) == (0, "I stepped in.\nI stepped in.\n"), told.stderr
