"""Attributes of LiteLLM that are replaced for as long as needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmkit_plugins.forks import new_lock


class Seam:
    """The attribute *name* of *owner*, which ``sew`` replaces with the result of *wrap*, and ``unpick`` restores.

    If other code has wrapped it since, ours stays underneath and lets through everything that does not concern it.
    """

    def __init__(self, owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._owner, self._name, self._wrap = owner, name, wrap
        self._original: Any = None
        self._ours: Any = None

    @property
    def is_sewn(self) -> bool:
        """Whether ours is in place, on top or underneath."""
        layer = getattr(self._owner, self._name)
        while layer is not None:
            if layer is self._ours:
                return True
            layer = getattr(layer, "__wrapped__", None)
        return False

    def sew(self) -> None:
        """Put ours in place, once."""
        if not self.is_sewn:
            self._original = getattr(self._owner, self._name)
            self._ours = self._wrap(self._original)
            setattr(self._owner, self._name, self._ours)

    def unpick(self) -> None:
        """Put the original back, unless other code has wrapped ours."""
        if getattr(self._owner, self._name) is self._ours:
            setattr(self._owner, self._name, self._original)


class Seams:
    """A group of seams, sewn as long as anything holds them."""

    def __init__(self, *seams: Seam) -> None:
        self._seams = seams
        self._holders = 0
        self._lock = new_lock()

    def hold(self) -> None:
        """Add a holder, and sew them."""
        with self._lock:
            self._holders += 1
            for seam in self._seams:
                seam.sew()

    def release(self) -> None:
        """Remove a holder; unpick them after the last."""
        with self._lock:
            self._holders -= 1
            if not self._holders:
                for seam in self._seams:
                    seam.unpick()
