"""One scenario, in every way to make a call: sync or async, whole or in chunks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llmkit_plugins.backend import Backend
from llmkit_plugins.call import Call
from llmkit_plugins.kit import LLMKit
from llmkit_plugins.testing.clock import ManualClock

MODES = ("run", "arun", "stream", "astream")
"""The four drivers: ``kit.call``, ``kit.acall``, ``kit.stream``, ``kit.astream``."""


def drive(kit: LLMKit, call: Call, backend: Backend, mode: str) -> Any:
    """Make the call in *mode* and return what the caller gets: the whole answer, or the chunks of the stream (joined if
    they are texts).

    The async modes run on an event loop of their own; if the kit's clock is a :class:`ManualClock`, on one driven by
    it.
    """
    if mode == "run":
        return kit.call(call, backend).raw
    if mode == "stream":
        return join(list(kit.stream(call, backend)))
    coroutine = adrive(kit, call, backend, mode)
    return kit.clock.run(coroutine) if isinstance(kit.clock, ManualClock) else asyncio.run(coroutine)


async def adrive(kit: LLMKit, call: Call, backend: Backend, mode: str) -> Any:
    """Like ``drive``, but within a running event loop, for *mode* ``arun`` or ``astream``."""
    if mode == "arun":
        return (await kit.acall(call, backend)).raw
    if mode == "astream":
        return join([chunk async for chunk in kit.astream(call, backend)])
    raise ValueError(f"{mode!r} is not an async mode (arun or astream)")


def join(chunks: Sequence[Any]) -> Any:
    """Join text chunks into one string; return other chunks unchanged."""
    return "".join(chunks) if all(isinstance(chunk, str) for chunk in chunks) else chunks
