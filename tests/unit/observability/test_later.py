"""What is noted is written once, in order, when somebody reads, and memory is bounded."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from llmkit_plugins.plugins.observability.later import Later


def test_notes_are_written_when_somebody_reads():
    """Not before, in their order, and once."""
    written: list[int] = []
    later = Later()
    for n in range(3):
        later.note(written.append, n)
    assert written == []
    later.settle()
    later.settle()
    assert written == [0, 1, 2]


@pytest.mark.parametrize("notes", [0, 1, 5])
def test_no_more_than_so_many_wait(notes):
    """Where nobody reads, each new note has an old one written; with none allowed to wait, itself."""
    written: list[int] = []
    later = Later(notes)
    for n in range(20):
        later.note(written.append, n)
        assert n + 1 - len(written) <= notes
    later.settle()
    assert written == list(range(20))


def test_a_note_that_cannot_be_written_is_skipped(caplog):
    """The others are written, and it is logged the first time."""
    written: list[int] = []
    later = Later()
    for _ in range(2):
        later.note(int, "no number")
        later.note(written.append, 1)
    later.settle()
    assert written == [1, 1]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_nothing_is_lost_between_threads(in_threads):
    """Three threads note while one reads all the time: every value is counted once, without a lock around it."""
    later, written = Later(100), Counter[str]()

    def work() -> None:
        for _ in range(5_000):
            later.note(written.update, ("x",))

    def read() -> None:
        for _ in range(500):
            later.settle()

    in_threads(work, work, work, read)
    later.settle()
    assert written["x"] == 15_000
