"""Times contenders in turn within one process, round after round, and prints medians and ratios: on a noisy machine
only the ratio within one run means something."""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable, Mapping

Contender = Callable[[], float]
"""Runs once and returns seconds per operation."""


def rounds_from_command_line(default: int = 9, quick: int = 3) -> int:
    """``--rounds N``, or ``--quick``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=default)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    return quick if given.quick else given.rounds


def measure(contenders: Mapping[str, Contender], rounds: int) -> dict[str, float]:
    """The median seconds per operation of each contender."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            gc.collect()
            taken[name].append(contender())
    return {name: statistics.median(times) for name, times in taken.items()}


def show(title: str, medians: Mapping[str, float], base: str, budgets: Mapping[str, float] | None = None) -> None:
    """Print a table in µs with the ratio to *base* and, where there is one, the budget in µs."""
    print(f"\n{title}")
    for name, seconds in medians.items():
        ratio = f"{seconds / medians[base]:8.1f} ×" if medians[base] else ""
        budget = (budgets or {}).get(name)
        verdict = "" if budget is None else f"   budget {budget:g} µs: {'met' if seconds * 1e6 <= budget else 'MISSED'}"
        print(f"  {name:44} {seconds * 1e6:10.3f} µs {ratio}{verdict}")
