"""What the settings have in common: numbers within bounds, or one clear error."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmkit_plugins.errors import ConfigError


def not_negative(key: str, value: object) -> None:
    """Raise ``ConfigError`` unless *value* is a finite number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{value!r} is not a number that can be used", key=key, right="a finite number, 0 or more")


def whole(key: str, value: object, least: int) -> None:
    """Raise ``ConfigError`` unless *value* is a whole number, *least* or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{value!r} is not a number that can be used", key=key, right=f"a whole number, {least} or more")


def one_of(key: str, value: object, known: Sequence[str]) -> None:
    """Raise ``ConfigError`` unless *value* is among the *known* ones."""
    if value not in known:
        raise ConfigError(f"{value!r} is not known", key=key, right="one of " + ", ".join(known))
