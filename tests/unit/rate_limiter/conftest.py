"""What the tests of the rate limiter share."""

from __future__ import annotations

import pytest

from llmkit_plugins.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """A clock moved by hand, which has been running for a while."""
    return ManualClock(1000.0)
