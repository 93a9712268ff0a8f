"""Checks what users pass when they pass it: otherwise it would fail in the middle of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from llmkit_plugins.errors import ConfigError

if TYPE_CHECKING:
    from llmkit_plugins.kit import LLMKit

Given = TypeVar("Given")


def given_kit(kit: Any) -> LLMKit:
    """*kit*, if it is an ``LLMKit``. Raises ``ConfigError``."""
    from llmkit_plugins.kit import LLMKit  # imported late: it uses this module

    return given(LLMKit, kit, key="kit", right="LLMKit([...]) or LLMKit.from_config()")


def given(cls: type[Given], value: Any, *, key: str, right: str) -> Given:
    """*value*, if it is a *cls*. Raises ``ConfigError``, which does not show the value."""
    if isinstance(value, cls):
        return value
    raise ConfigError(f"{called(value)} is no {cls.__name__}", key=key, right=right)


def called(value: Any) -> str:
    """How an error refers to *value* without showing it."""
    if value is None:
        return "None"
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
