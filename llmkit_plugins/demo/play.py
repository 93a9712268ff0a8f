"""The demo, from opening to summary."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llmkit_plugins.demo.acts import ACTS
from llmkit_plugins.demo.report import Report
from llmkit_plugins.demo.scene import Scene


def play(argv: Sequence[str] | None) -> int:
    """Run every act; the exit code is 0 if all ended as they should."""
    parser = argparse.ArgumentParser(prog="llmkit demo", description="Real requests through LangChain and LiteLLM.")
    parser.add_argument("--requests", type=int, default=400, help="how many to send in the act of everyday traffic")
    parser.add_argument("--metrics-port", type=int, default=0, help="where /metrics is served while it runs (0: any)")
    parser.add_argument("--stay", action="store_true", help="go on serving /metrics until interrupted")
    given = parser.parse_args(argv)
    if given.requests < 4:
        parser.error("--requests: at least 4, one of each kind")
    with _quiet("LiteLLM"), _quiet("llmkit"):
        return asyncio.run(_play(given))


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Silence *logger*: failures in here are intended, and the acts report them."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


async def _play(given: argparse.Namespace) -> int:
    report = Report()
    async with Scene(metrics_port=given.metrics_port) as scene:
        report.opening(scene)
        good = True
        for act in ACTS:
            with report.progress(act) as step:
                outcome = await act.play(scene, step, given.requests)
            report.outcome(act, outcome)
            good = good and outcome.good
        report.summary(scene)
        if given.stay:
            report.staying(scene)
            await asyncio.Event().wait()
    return 0 if good else 1
