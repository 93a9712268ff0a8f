"""A real proxy in a process of its own, started once: two providers behind it, and plugins that keep a journal.

Each worker of pytest-xdist has its own.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from llmkit_plugins.testing import FakeProvider

INSIDE = Path(__file__).parent / "inside"
OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
}
"""What keeps LiteLLM from asking the network."""

MASTER_KEY = f"sk-{secrets.token_hex(32)}"
"""LiteLLM refuses to start with one that could be guessed."""

PATIENCE = 60.0
"""Seconds after which what was waited for will not come: a proxy takes five to start, on a busy machine thirty."""

ENTRY_POINTS = (
    "[llmkit_plugins]\nouter = journal:Outer\ninner = journal:Inner\nbuggy = journal:Buggy\nspans = journal:Spans\n"
)


class Proxy:
    """A proxy that runs, and what was written inside it."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.process, self.master_key = folder, process, MASTER_KEY
        self.url = f"http://127.0.0.1:{port}"
        self._clients: dict[str, openai.OpenAI] = {}

    @property
    def log(self) -> str:
        """What it printed, the last of it."""
        return (self.folder / "log").read_text(errors="replace")[-20_000:]

    def client(self, key: str = "sk-ann--") -> openai.OpenAI:
        """A client with the key of a user and team, ``sk-USER-TEAM-``; it never retries by itself."""
        if key not in self._clients:
            self._clients[key] = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE)
        return self._clients[key]

    def aclient(self, key: str = "sk-ann--") -> openai.AsyncOpenAI:
        """The same, to be awaited."""
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE)

    def lines(self, file: str, **having: Any) -> list[dict[str, Any]]:
        """The lines of *file* that have these values, so far."""
        path = self.folder / file
        whole = path.read_text().splitlines() if path.exists() else []
        told = [json.loads(line) for line in whole if line.endswith("}")]
        return [line for line in told if having.items() <= line.items()]

    def heard(self, model: str, who: str = "outer") -> Counter[str]:
        """What one of the two plugins heard of calls for *model*, routing aside. It began nothing twice, and ended
        nothing that it had not begun."""
        lines = self.lines("journal", who=who, model=model)
        marks = [(line["call"], line.get("number"), line["what"].partition(" ")[1]) for line in lines]
        assert len(set(marks)) == len(marks)
        return Counter(line["what"] for line in lines)

    def hears(self, model: str, expected: dict[str, int]) -> None:
        """Wait until the first plugin has heard *expected*, which the last one has heard too as far as it was asked."""
        wait(lambda: self.heard(model) == expected, lambda: f"{self.heard(model)} is not {expected}\n{self.log}")
        inner = self.heard(model, "inner")
        for what in ("request", "attempt"):
            assert inner[what] == sum(times for told, times in inner.items() if told.startswith(f"{what} "))

    def left_open(self) -> set[tuple[str, str, int | None]]:
        """Which plugin was not told of which end."""
        told = [(line, (line["who"], line["call"], line.get("number"))) for line in self.lines("journal")]
        begun = {mark for line, mark in told if line["what"] in ("request", "attempt")}
        return begun - {mark for line, mark in told if " " in line["what"]}

    def wait(self, holds: Callable[[], Any]) -> None:
        """Wait until *holds*."""
        wait(holds, lambda: self.log)

    def reaches(self, model: str, **expected: int) -> None:
        """Wait until the first plugin has heard so much of each, or more."""
        wait(
            lambda: all(self.heard(model)[what] >= times for what, times in expected.items()),
            lambda: f"{self.heard(model)} does not reach {expected}\n{self.log}",
        )

    def told(self, file: str, times: int, **having: Any) -> None:
        """Wait until *file* has so many lines with these values."""
        wait(lambda: len(self.lines(file, **having)) >= times, lambda: f"{self.lines(file)}\n{self.log}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it as an operator does, and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End it at once, whatever it does."""
        for client in self._clients.values():
            client.close()
        self.process.kill()
        self.process.wait()


def wait(holds: Callable[[], Any], told: Callable[[], str] = lambda: "it never happened") -> None:
    """Wait until *holds*; fails with what is *told*."""
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until, told()
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _launch(folder: Path, config: dict[str, Any], settings: str) -> Proxy:
    """Start a proxy in *folder*, as the shell would: ``litellm --config config.yaml``. It is not up yet."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "llmkit.toml").write_text(settings)
    plugins = folder / "inside-1.0.dist-info"
    plugins.mkdir()
    (plugins / "METADATA").write_text("Metadata-Version: 2.1\nName: inside\nVersion: 1.0\n")
    (plugins / "entry_points.txt").write_text(ENTRY_POINTS)
    for module in INSIDE.glob("*.py"):
        (folder / module.name).write_text(module.read_text())
    port = _free_port()
    own = {"LLMKIT_CONFIG": "llmkit.toml", "LITELLM_MASTER_KEY": MASTER_KEY, "JOURNAL": str(folder)}
    environment = {**os.environ, **OFFLINE, **own}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", "from litellm import run_server; run_server()"]
    options = ["--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options], cwd=folder, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    return Proxy(folder, port, process)


@contextmanager
def _launched(folder: Path, config: dict[str, Any], settings: str) -> Iterator[Proxy]:
    """The same; it is gone in the end."""
    proxy = _launch(folder, config, settings)
    try:
        yield proxy
    finally:
        proxy.close()


def _answers(proxy: Proxy) -> bool:
    """Whether *proxy* is up; fails where it has given up."""
    assert proxy.process.poll() is None, proxy.log
    try:
        return httpx.get(f"{proxy.url}/health/liveliness", timeout=5.0).is_success
    except httpx.TransportError:
        return False


def _deployment(group: str, name: str, provider: FakeProvider, model: str = "openai/gpt-4o-mini") -> dict[str, Any]:
    """An entry of the model list."""
    access = {"model": model, "api_base": provider.url, "api_key": "any"}
    return {"model_name": group, "litellm_params": access, "model_info": {"id": f"{group}/{name}"}}


SETTINGS = """
plugins = [
  "outer", "observability", "rate_limiter", "multiplexer", "router", "circuit_breaker", "spans", "buggy", "inner"
]

[rate_limiter]
limits = [
  { per = ["user"], requests = "1/day", match = { user = "limited*" } },
  { per = ["tenant"], requests = "1/day", match = { tenant = "small*" } },
  { per = ["metadata.user_api_key_hash"], requests = "1/day", match = { user = "per_key*" } },
]

[router]
failover_floor = 1000  # these tests fail over more than they succeed

[circuit_breaker]
open_seconds = 0.5
consecutive_failures = 3
min_available = 0
"""


@pytest.fixture(scope="session")
def _providers() -> Iterator[tuple[FakeProvider, FakeProvider]]:
    with FakeProvider(reply="one two three") as first, FakeProvider(reply="four five") as second:
        yield first, second


GROUPS = tuple(
    f"{case} {mode}"
    for mode in ("whole", "stream")
    for case in (
        "abandoned",
        "cancelled",
        "circuit",
        "down",
        "empty",
        "failover",
        "left",
        "limited",
        "ok",
        "shared",
        "slots",
        "theirs",
    )
)
"""Model groups, each with circuits of its own."""


@pytest.fixture(scope="session")
def _proxy(_providers, tmp_path_factory) -> Iterator[Proxy]:
    first, second = _providers
    groups = (*GROUPS, "buggy", "callers", "dying", "free", "keys", "other", "slots left", "texts", "traced", "wire")
    pairs = [(group, name, provider) for group in groups for name, provider in (("a", first), ("b", second))]
    chats = [(group, "a", first, "custom_openai/gpt-4o-mini") for group in ("messages", "responses")]
    models = [_deployment(*entry) for entry in (*pairs, *chats)]
    config = {
        "model_list": models,
        "litellm_settings": {"callbacks": ["theirs.callback", "prometheus", "llmkit_litellm.proxy.handler"]},
        "general_settings": {
            "custom_auth": "theirs.check_key",
            "cancel_on_disconnect": True,
            "disable_model_info_refresh": True,  # else it asks each provider what models it has
        },
        "router_settings": {"num_retries": 2, "retry_after": 0, "disable_cooldowns": True},
    }
    with _launched(tmp_path_factory.mktemp("proxy"), config, SETTINGS) as proxy:
        proxy.wait(lambda: _answers(proxy))
        yield proxy
        proxy.stop()
        assert proxy.left_open() == set()


@pytest.fixture
def first(_providers) -> Iterator[FakeProvider]:
    """The provider of the deployments ``a``, which are preferred, as if it were new."""
    yield from _as_new(_providers[0])


@pytest.fixture
def second(_providers) -> Iterator[FakeProvider]:
    """The provider of the deployments ``b``."""
    yield from _as_new(_providers[1])


def _as_new(provider: FakeProvider) -> Iterator[FakeProvider]:
    made = provider.behaviour
    provider.reset()
    yield provider
    provider.behaviour = made


@pytest.fixture
def proxy(_proxy, first, second) -> Proxy:
    """The proxy, with all five plugins; each model group has the deployments ``a`` and ``b``."""
    assert _answers(_proxy)
    return _proxy


@pytest.fixture(params=["whole", "stream"])
def mode(request) -> str:
    """How the answer is wanted."""
    return request.param


@pytest.fixture
def launch(tmp_path) -> Iterator[Callable[..., Proxy]]:
    """Starts a proxy of its own with a config and settings; it may not be up yet."""
    with ExitStack() as stack:
        yield lambda config, settings: stack.enter_context(_launched(tmp_path, config, settings))


@pytest.fixture
def start(launch) -> Callable[..., Proxy]:
    """The same, and it is up."""

    def start(config: dict[str, Any], settings: str) -> Proxy:
        proxy = launch(config, settings)
        proxy.wait(lambda: _answers(proxy))
        return proxy

    return start


@pytest.fixture
def deployment() -> Callable[..., dict[str, Any]]:
    """Makes entries of a model list."""
    return _deployment


@pytest.fixture
def free_port() -> int:
    """One that nobody listens on."""
    return _free_port()
