"""Checks shared by the settings: numbers within bounds, or one clear error."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmkit_plugins.errors import ConfigError


def not_negative(key: str, value: object) -> float:
    """*value*, if it is a finite number of at least 0; otherwise raises ``ConfigError``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{value!r} cannot be used", key=key, right="a finite number, 0 or more")
    return value


def whole(key: str, value: object, least: int, most: float = math.inf) -> None:
    """Raise ``ConfigError`` unless *value* is a whole number from *least* to *most*."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        bounds = f"{least} or more" if most == math.inf else f"{least} to {most}"
        raise ConfigError(f"{value!r} cannot be used", key=key, right=f"a whole number, {bounds}")


def one_of(key: str, value: object, known: Sequence[str]) -> None:
    """Raise ``ConfigError`` unless *value* is among the *known* ones."""
    if value not in known:
        raise ConfigError(f"{value!r} is not known", key=key, right="one of " + ", ".join(known))
