"""Detects hooks that block though they must not: two plugins, listed around the one being watched."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from llmkit_plugins.hookspecs import hookimpl

BLOCKING = frozenset(
    {
        "_posixsubprocess.fork_exec",
        "_socket.getaddrinfo",
        "epoll.poll",
        "poll.poll",
        "posix.system",
        "select.select",
        "socket.accept",
        "socket.connect",
        "socket.recv",
        "socket.recv_into",
        "socket.send",
        "socket.sendall",
        "socket.sendmsg",
        "socket.sendto",
        "time.sleep",
    }
)
"""Built-in functions that block, or may block."""


class BeforePostHooks:
    """Listed after the watched plugin, so its post hooks run first. ``blocked`` lists what the next ones called."""

    def __init__(self) -> None:
        self.blocked: list[str] = []

    def _watch(self) -> None:
        sys.setprofile(self._note)

    def _note(self, _: FrameType, event: str, function: Any) -> None:  # pragma: no cover - nothing traces a profiler
        if event == "c_call":
            name = ".".join(filter(None, (function.__module__, function.__qualname__)))
            if name in BLOCKING:
                self.blocked.append(name)

    @hookimpl
    def llmkit_post_attempt(self) -> None:
        self._watch()

    @hookimpl
    def llmkit_post_response(self) -> None:
        self._watch()

    @hookimpl
    def llmkit_error(self) -> None:
        self._watch()


class AfterPostHooks:
    """Listed before the watched plugin, so its post hooks run last."""

    @hookimpl
    def llmkit_post_attempt(self) -> None:
        sys.setprofile(None)

    @hookimpl
    def llmkit_post_response(self) -> None:
        sys.setprofile(None)

    @hookimpl
    def llmkit_error(self) -> None:
        sys.setprofile(None)
