"""The steps are plain data: what they mean is for the laws to say."""

from __future__ import annotations

from llmkit_plugins import Answer, Ask, Response, Share, Wait
from llmkit_plugins.clock import SYSTEM_CLOCK, sleep_of


def test_the_steps_hold_what_they_were_given():
    """Each is made by position, in the order of its name."""
    response = Response("raw")
    assert Wait(2.0).seconds == 2.0
    assert Ask(min, max).arun is max
    assert (Answer(response).response, list(Answer(response).chunks)) == (response, [])


def test_a_share_has_no_bounds_unless_told():
    """None of its bounds is in force by itself."""
    share = Share("key")
    assert (share.max_age_seconds, share.max_chunks, share.max_flights) == (None, None, None)


def test_how_time_passes():
    """A clock with a ``sleep`` of its own is slept with; any other with the system's."""

    class Clock:
        def __call__(self):
            return 0.0

        def sleep(self, seconds):
            slept.append(seconds)

    slept = []
    sleep_of(Clock())(3.0)
    assert slept == [3.0]
    sleep_of(lambda: 0.0)(0.0)
    assert SYSTEM_CLOCK() <= SYSTEM_CLOCK()
