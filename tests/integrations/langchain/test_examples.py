"""The examples run as they are shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLES, PAGE = ROOT / "examples", (ROOT / "docs" / "langchain.md").read_text()


SAID = {
    "chain": [
        "Hello from the first one.",
        "I stepped in.",
        "{'target': 'cheap', 'attempts': 2, 'shared': False}",
    ],
    "agent": [
        "ai    fast   weather?",
        "tool         sunny",
        "ai    cheap  local_time?",
        "tool         noon",
        "ai    cheap  It is noon, and sunny.",
        "asked 2 and 2 times",
    ],
    "rag_fanout": [
        "She wrote it for a machine that was never built.",
        "10 answers, 40 calls, 4 requests",
    ],
    "fastapi": [
        "u1 200 Hello, Ada. ",
        "u1 200 Hello, Ada. ",
        'u1 429 {"limit":"per user"} 30',
        "u2 200 Hello, Ada. ",
    ],
}
FAILS = "target fast fails: overloaded"
LOGGED = {"chain": [FAILS], "agent": ["circuit of fast: open (consecutive_failures 1, threshold 1)", FAILS]}


@pytest.mark.parametrize("name", SAID)
def test_it_runs(name):
    """It says what it is meant to say, and nothing is wrong with it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"langchain_{name}.py"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == SAID[name]
    assert done.stderr.splitlines() == LOGGED.get(name, [])


def test_all_of_them_are_tested():
    """There is no other."""
    assert {path.stem for path in EXAMPLES.glob("langchain_*.py")} == {f"langchain_{name}" for name in SAID}


@pytest.mark.parametrize("name", SAID)
def test_it_is_what_the_docs_show(name):
    """The page about LangChain has it as it is."""
    assert f"```python\n{(EXAMPLES / f'langchain_{name}.py').read_text()}```" in PAGE
