"""Text for people: coloured and framed on a terminal if rich is installed, plain and aligned otherwise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import zip_longest
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_GAP = "  "
_NARROW = 10  # characters: no column is made narrower


def say(text: str = "", style: str | None = None) -> None:
    """Write *text*, in *style* (``bold``, ``red`` …) if the output supports styles."""
    if console := _console():
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    else:
        sys.stdout.write(f"{text}\n")


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write *rows* below the names of their *columns*."""
    if console := _console():
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns)
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    room = get_terminal_size().columns - len(_GAP) * (len(widths) - 1)
    while sum(widths) > room and (widest := max(widths)) > _NARROW:
        widths[widths.index(widest)] -= 1
    for row in [columns, *rows]:
        wrapped = [wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for line in zip_longest(*wrapped, fillvalue=""):
            say(_GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _console() -> Console | None:
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console()
