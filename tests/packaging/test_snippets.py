"""Every snippet in the README and the docs works as printed."""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else importing it asks the network for prices

import litellm

from llmkit_plugins.config import assemble
from llmkit_plugins.testing.fake_provider import FakeProvider

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


class Snippet(NamedTuple):
    page: str
    line: int
    code: str


def snippets(language: str) -> list[Snippet]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 2
            code = re.sub(rf"^{match[1]}", "", match[2], flags=re.MULTILINE)
            found.append(Snippet(page.name, line, code))
    return found


def named(snippet: Snippet) -> str:
    return f"{snippet.page}:{snippet.line}"


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def _connections() -> Iterator[None]:
    """LiteLLM's are closed when the test is over, rather than whenever somebody clears what it keeps."""
    with httpx.Client() as litellm.client_session:
        yield
    litellm.client_session = None
    litellm.in_memory_llm_clients_cache.flush_cache()


@pytest.fixture
def _logging() -> Iterator[None]:
    """What a snippet says should be logged is over with it."""
    log = logging.getLogger("llmkit")
    level, handlers = log.level, log.handlers[:]
    yield
    log.setLevel(level)
    log.handlers[:] = handlers


@pytest.mark.usefixtures("_connections", "_logging")
@pytest.mark.parametrize("snippet", snippets("python"), ids=named)
def test_python(snippet: Snippet, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs from its first line to its last, with a local provider where the key of a real one would be."""
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
    exec(compile("\n" * (snippet.line - 1) + snippet.code, snippet.page, "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("snippet", snippets("toml"), ids=named)
def test_toml(snippet: Snippet) -> None:
    """Settings are accepted as they stand; what belongs in a pyproject.toml parses."""
    table = tomllib.loads(snippet.code)
    if "project" not in table:
        assemble(table)
