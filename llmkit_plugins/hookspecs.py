"""The six hooks: everything a plugin can see and do.

A hook is a plain function, or (the two ``pre`` hooks only) a generator that yields :class:`~llmkit_plugins.Wait` and
:class:`~llmkit_plugins.Ask` and returns an ``Answer`` or a ``Share`` (``pre_request`` only). An implementation may
take fewer arguments than declared here.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pluggy

from llmkit_plugins.call import Attempt, Call, Response, Target
from llmkit_plugins.steps import Answer, Ask, Prefer, Share, Wait

PROJECT = "llmkit"
ENTRY_POINTS = "llmkit_plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

RequestSteps = Generator[Wait | Ask, Any, Answer | Share | None]
AttemptSteps = Generator[Wait | Ask, Any, None]


@hookspec
def llmkit_pre_request(call: Call) -> RequestSteps | Answer | Share | None:
    """Fires once for every caller, before anything else: may refuse, wait, ask, answer or share."""


@hookspec
def llmkit_route(call: Call, targets: Sequence[Target]) -> Sequence[Target] | Prefer:  # type: ignore[empty-body]
    """Fires before each attempt, with the targets not tried yet: narrows or reorders them, prefers some, or refuses the
    call."""


@hookspec
def llmkit_pre_attempt(call: Call, attempt: Attempt) -> AttemptSteps | None:
    """Fires once a target is chosen: may refuse it (the next one is tried), wait or ask."""


@hookspec
def llmkit_post_attempt(call: Call, attempt: Attempt) -> None:
    """Fires when the attempt has ended, however it ended: learn from it."""


@hookspec
def llmkit_post_response(call: Call, response: Response) -> None:
    """Fires when the call has succeeded: learn from it."""


@hookspec
def llmkit_error(call: Call, error: BaseException) -> None:
    """Fires when the call has failed, been refused or been cancelled (see ``call.outcome``): learn from it."""
