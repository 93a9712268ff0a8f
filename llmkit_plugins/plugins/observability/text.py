"""Text as whoever collects it can have it."""

from __future__ import annotations


def writable(value: object) -> str:
    """*value* as text in UTF-8, which has no lone surrogates: half of an emoji in a prompt, or in what somebody calls
    a model. One is written as it would be in JSON."""
    return str(value).encode("utf-8", "backslashreplace").decode()
