"""Tells plugins how a call or attempt ended: immediately, or later if the garbage collector ended it."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from llmkit_plugins.call import Call

if TYPE_CHECKING:
    from llmkit_plugins.engine.plan import Bugs, Hook, Plan


def tell(plan: Plan, hooks: tuple[Hook, ...], heard: int, call: Call, story: Any) -> None:
    """Call the post hook of each plugin that was asked, even if another one fails or is interrupted."""
    if _collecting and get_ident() in _collecting:
        _late_ends.append((plan, hooks, heard, call, story))
        return
    raised: BaseException | None = None
    for need, hook, who, _ in hooks:
        if need <= heard:
            try:
                hook(call, story)
            except Exception as bug:
                raised = bug if plan.bugs.report(who, bug) else raised
            except BaseException as gone:
                raised = gone
    if raised is not None:
        try:
            raise raised
        finally:
            del raised


def inform(bugs: Bugs, listeners: Iterable[Callable[..., object]], *facts: Any) -> None:
    """Call the *listeners* that hooks registered; a listener's bug is reported and affects nothing else."""
    for listener in listeners:
        try:
            listener(*facts)
        except Exception as bug:
            bugs.report(f"{getattr(listener, '__qualname__', listener)}", bug)


# Ends caused by the garbage collector are reported later: a hook in the same thread may be holding a lock right now.
_late_ends: deque[tuple[Plan, tuple[Hook, ...], int, Call, Any]] = deque()
_collecting: set[int] = set()


def _watch_collector(phase: str, _: object) -> None:
    (_collecting.add if phase == "start" else _collecting.discard)(get_ident())


gc.callbacks.append(_watch_collector)


def settle() -> None:
    """Report the ends that the garbage collector caused; several threads may do so concurrently."""
    while _late_ends and get_ident() not in _collecting:
        try:
            late = _late_ends.popleft()
        except IndexError:  # another thread took the last one
            return
        tell(*late)
