"""What is known of one target."""

from __future__ import annotations

from dataclasses import dataclass

from llmkit_plugins.call import Attempt, Usage
from llmkit_plugins.plugins.router.failures import Failures
from llmkit_plugins.plugins.router.latency import LEAST_GAIN, LONGEST_SECONDS, OUTLIER, Latency

FLOOD_SECONDS, FLOOD = 0.01, 48
"""Answers of a target that come within so many seconds may be learned from together, not many more than that."""

_LEASE_SECONDS = 600.0
_FIRST_AWAY_SECONDS = 1.0
_MOST_DOUBLINGS = 6
_LONGEST_AWAY_SECONDS = 3600.0
_CACHE_GAIN = 0.1


@dataclass(frozen=True, slots=True)
class TargetStats:
    """What is known about one target. Seconds are for an answer given alone, to a prompt of the usual length."""

    in_flight: int
    first_chunk_seconds: float
    seconds_per_output_token: float
    success_rate: float
    """The probability that the next attempt is answered."""
    usual_success_rate: float
    """The same in the long run."""
    answers: int
    failures: int
    away_seconds: float
    """How much longer it asked to be left alone."""


class Track:
    """How long one target takes, how often it fails, what is under way there, until when it asked to be left alone.

    An attempt may be told to have ended twice, late, or without having begun: what is in flight is a length, not a
    count, so that what a race spoils is right again with the next attempt. One that never ends is in flight for ten to
    twenty minutes.
    """

    __slots__ = ("_answers", "_failures", "_old", "_refusals", "_told", "added", "away_until", "cached_share",
                 "failing", "failures", "firsts", "flood_until", "in_flight", "latency", "lease_ends", "longest",
                 "rests", "tokens", "tried", "under_way", "whole")  # fmt: skip

    def __init__(self, first: float, token: float, half_life: float, now: float) -> None:
        self.latency = Latency(first, token, half_life, now)
        self.failures = Failures(half_life, now)
        self.under_way: dict[Attempt, int] = {}
        """The attempts in flight, each with the bit length of the number of those it began beside."""
        self.in_flight = 0
        """How many there are."""
        self.lease_ends = now + _LEASE_SECONDS
        """When to look for attempts that were in flight for so long that they will never end."""
        self._old: list[Attempt] = []
        self.flood_until, self.longest = 0.0, 0.0
        """Until when answers are a flood, in which those may only be added up that took no longer than that."""
        self.whole = False
        """Whether the last answer came whole: such are not added up with streams."""
        self.added, self.tokens = 0, 0
        self.firsts = self.rests = 0.0
        """What was added up: answers, their tokens, seconds to their first chunks, and the rest; all as if alone."""
        self.away_until = float("-inf")
        self.tried = float("-inf")
        """When an attempt last began."""
        self.cached_share = 0.5
        """The part of a prompt that is read from the provider's cache, where the cache should know the prompt."""
        self.failing = False
        """Whether the last attempt failed."""
        self._answers = self._failures = self._refusals = self._told = 0

    def forget_lost(self, now: float) -> None:
        """Take attempts for lost that were in flight the last time already."""
        for attempt in self._old:
            self.under_way.pop(attempt, None)
        self._old = list(self.under_way)
        self.lease_ends = now + _LEASE_SECONDS

    def answered(
        self, attempt: Attempt, crowd: int, tokens: float, usual_tokens: float, prompt: float, now: float
    ) -> None:
        """*attempt*, sent beside others of that *crowd*, was answered with *tokens*, where *usual_tokens* are usual;
        its prompt was longer by *prompt* times the usual."""
        if self.added:
            self._catch_up(now)
        latency, failures = self.latency, self.failures
        self._answers = answers = self._answers + 1
        self._refusals = 0
        self.failing = False
        if failures.suspected or not answers & 15:
            failures.answered(answers - self._told, now)
            self._told = answers
        started, ended, chunk = attempt.started, attempt.finished, attempt.first_chunk
        if started is None or ended is None:
            return
        seconds = ended - started - attempt.paused_seconds
        if not 0.0 <= seconds <= LONGEST_SECONDS:
            seconds = 0.0 if seconds < 0.0 else LONGEST_SECONDS
        first = None if chunk is None else chunk - started
        latency.learn(first, seconds, tokens, usual_tokens, crowd, now, prompt)
        floods = ended < self.flood_until and latency.gain <= LEAST_GAIN and not failures.suspected
        self.longest = OUTLIER * (latency.first_now + usual_tokens * latency.token_now) if floods else 0.0
        self.flood_until, self.whole = ended + FLOOD_SECONDS, chunk is None

    def failed(self, attempt: Attempt, crowd: int, now: float) -> None:
        """*attempt* failed. A timeout also says how long answers take at least; a fast failure says nothing of that."""
        self._failures += 1
        self._catch_up(now)
        self.failing = True
        self.failures.failed(now)
        started, seconds = attempt.started, attempt.duration
        if attempt.kind != "timeout" or started is None or seconds is None or attempt.first_chunk is not None:
            return
        if seconds > self.latency.first_chunk(crowd):
            seconds = min(seconds, LONGEST_SECONDS)
            self.latency.learn(seconds, seconds, 0.0, 0.0, crowd, now)

    def stay_away(self, seconds: float | None, now: float) -> None:
        """It is out of capacity, and said for how long; if it did not, a second, twice that the next time …"""
        wait = _FIRST_AWAY_SECONDS * 2.0 ** min(self._refusals, _MOST_DOUBLINGS) if seconds is None else seconds
        self._refusals += 1
        self._catch_up(now)
        self.away_until = max(self.away_until, now + min(max(wait, 0.0), _LONGEST_AWAY_SECONDS))

    def cached(self, usage: Usage) -> None:
        """A prompt was sent that the provider's cache should have known."""
        if usage.input_tokens:
            share = min(usage.cached_tokens / usage.input_tokens, 1.0)
            self.cached_share += _CACHE_GAIN * (share - self.cached_share)

    def stats(self, now: float) -> TargetStats:
        """In figures people ask for."""
        self._catch_up(now)
        return TargetStats(
            in_flight=len(self.under_way),
            first_chunk_seconds=self.latency.first,
            seconds_per_output_token=self.latency.token,
            success_rate=self.failures.success,
            usual_success_rate=1.0 - self.failures.usual_rate,
            answers=self._answers,
            failures=self._failures,
            away_seconds=max(0.0, self.away_until - now),
        )

    def _catch_up(self, now: float) -> None:
        """Learn from what was added up; the next answer is learned from in full."""
        self.longest = 0.0
        if added := self.added:
            latency, tokens = self.latency, self.tokens / added
            first, seconds = self.firsts / added, max(self.firsts + self.rests, 0.0) / added
            if self.whole:  # the average does not tell which part has changed: both alike
                first = seconds * latency.first / (latency.first + (tokens - 1.0) * latency.token)
            latency.learn(first, seconds, tokens, tokens, 0, now, answers=added)
            self._answers += added
            self.added, self.tokens, self.firsts, self.rests = 0, 0, 0.0, 0.0
