"""Plugins that are installed for one test only."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pydantic import Field, SecretStr, field_validator

from llmkit_plugins import ConfigError, hookimpl
from llmkit_plugins.settings import Settings


class Limit(Settings):
    per: list[str] = Field(description="What the limit is counted for.")
    requests: str = Field(description="Requests a time, such as 100/s.")

    @field_validator("requests")
    @classmethod
    def _rate(cls, value: str) -> str:
        if not re.fullmatch(r"\d+/(s|min|h)", value):
            raise ConfigError(f"{value!r} is not a rate", right="a number a unit of time, such as 100/s")
        return value


class RateLimiterConfig(Settings):
    on_limit: Literal["wait", "refuse"] = Field(default="wait", description="What becomes of a call over the limit.")
    max_wait_seconds: float = Field(default=30.0, gt=0, description="The longest a call waits for its turn.")
    limits: list[Limit] = Field(default=[], description="The limits, all of which must admit a call.")
    redis_url: SecretStr | None = Field(default=None, description="Where limits are counted for several processes.")


class RouterConfig(Settings):
    optimize_for: Literal["latency", "cost"] = Field(default="latency", description="What the best target is best at.")


class Plain:
    """A plugin without settings; it keeps what it was built with."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    @hookimpl
    def llmkit_error(self, call: Any, error: BaseException) -> None: ...

    @hookimpl
    def llmkit_pre_request(self, call: Any) -> None: ...


class RateLimiter(Plain):
    Config = RateLimiterConfig


class Router(Plain):
    Config = RouterConfig


@dataclass
class Entry:
    """An entry point, as ``importlib.metadata`` has them."""

    name: str
    plugin: Any
    dist: Any
    value: str = "acme:Plugin"
    loads: int = 0

    def load(self) -> Any:
        self.loads += 1
        if isinstance(self.plugin, BaseException):
            raise self.plugin
        return self.plugin


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Entry]:
    """``install(name, plugin)``: from now on this is installed, and nothing that really is. An exception in place of a
    plugin is raised when it is imported."""
    entries: list[Entry] = []
    monkeypatch.setattr("llmkit_plugins.discovery.entry_points", lambda group: [*entries])
    monkeypatch.setattr("llmkit_plugins.discovery._warned", set())

    def install(name: str, plugin: Any, distribution: str = "acme", version: str = "1.0") -> Entry:
        entries.append(Entry(name, plugin, SimpleNamespace(name=distribution, version=version)))
        return entries[-1]

    return install


@pytest.fixture
def plugins(install: Callable[..., Entry]) -> SimpleNamespace:
    """A rate limiter and a router with settings, a plain plugin without, and one that cannot be imported."""
    install("shaky", ImportError("No module named 'shaken'"))
    install("router", Router)
    install("plain", Plain)
    install("rate_limiter", RateLimiter)
    return SimpleNamespace(RateLimiter=RateLimiter, Router=Router, Plain=Plain)


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("LLMKIT_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
