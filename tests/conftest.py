"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from time import sleep
from typing import Any

import pytest

from llmkit_plugins import hookimpl


class FunctionsAsPlugin:
    def __init__(self, name: str, critical: bool, hooks: dict[str, Callable[..., Any]]) -> None:
        self.name, self.critical = name, critical
        for hook, function in hooks.items():
            setattr(self, f"llmkit_{hook}", hookimpl(function))


@pytest.fixture
def plugin() -> Callable[..., Any]:
    """Makes a plugin of functions: ``plugin(pre_request=lambda call: ...)``."""

    def make(name: str = "plugin", *, critical: bool = False, **hooks: Callable[..., Any]) -> FunctionsAsPlugin:
        return FunctionsAsPlugin(name, critical, hooks)

    return make


@pytest.fixture
def in_threads() -> Callable[..., list[Any]]:
    """Runs each function in a thread of its own and returns what they returned or raised; none may hang."""

    def run(*functions: Callable[[], Any]) -> list[Any]:
        results: list[Any] = [None] * len(functions)

        def body(place: int) -> None:
            try:
                results[place] = functions[place]()
            except BaseException as error:
                results[place] = error

        threads = [Thread(target=body, args=(place,), daemon=True) for place in range(len(functions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20.0)
        assert not any(thread.is_alive() for thread in threads), "a thread hangs"
        return results

    return run


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], None]:
    """Waits until another thread has brought about what the function tells; fails where it never does."""

    def wait(happened: Callable[[], Any]) -> None:
        for _ in range(20_000):
            if happened():
                return
            sleep(0.001)
        raise AssertionError("it never happened")

    return wait
