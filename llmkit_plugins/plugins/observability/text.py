"""Text in a form that collectors accept."""

from __future__ import annotations


def writable(value: object) -> str:
    """*value* as text that UTF-8 can encode, without lone surrogates (half an emoji in a prompt or a model's name),
    which are escaped as in JSON."""
    return str(value).encode("utf-8", "backslashreplace").decode()
