"""What is known of one target."""

from __future__ import annotations

from dataclasses import dataclass

from llmkit_plugins.call import Attempt, Usage
from llmkit_plugins.plugins.router.failures import Failures
from llmkit_plugins.plugins.router.latency import LEAST_GAIN, LONGEST_SECONDS, OUTLIER, Latency

FLOOD_SECONDS, FLOOD = 0.01, 48
"""Answers within this many seconds may be learned from as a batch, of not much more than this many."""

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
    """How long one target takes, how often it fails, what is in flight there, and until when it asked to be left alone.

    The end of an attempt may be reported twice, late, or without its start: the number in flight is the length of a
    dict, not a counter, so the next attempt corrects what a race got wrong. An attempt that never ends counts as in
    flight for ten to twenty minutes.
    """

    __slots__ = ("_answers", "_failures", "_old", "_refusals", "_told", "added", "away_until", "cached_share",
                 "failing", "failures", "firsts", "flood_until", "in_flight", "latency", "lease_ends", "longest",
                 "rests", "tokens", "tried", "under_way", "whole")  # fmt: skip

    def __init__(self, first: float, token: float, half_life: float, now: float) -> None:
        self.latency = Latency(first, token, half_life, now)
        self.failures = Failures(half_life, now)
        self.under_way: dict[Attempt, int] = {}
        """The attempts in flight, each with the bit length of the number in flight when it began."""
        self.in_flight = 0
        """How many attempts are in flight."""
        self.lease_ends = now + _LEASE_SECONDS
        """When to look for attempts in flight for so long that they will never end."""
        self._old: list[Attempt] = []
        self.flood_until, self.longest = 0.0, 0.0
        """Until when answers count as a flood, and the longest time an answer in it may take to be only summed."""
        self.whole = False
        """Whether the last answer came whole; such answers are not summed with streams."""
        self.added, self.tokens = 0, 0
        self.firsts = self.rests = 0.0
        """The sums: answers, their tokens, the seconds to their first chunks, and the rest; all as if unloaded."""
        self.away_until = float("-inf")
        self.tried = float("-inf")
        """When an attempt last began."""
        self.cached_share = 0.5
        """The share of a prompt read from the provider's cache, if the cache should have the prompt."""
        self.failing = False
        """Whether the last attempt failed."""
        self._answers = self._failures = self._refusals = self._told = 0

    def forget_lost(self, now: float) -> None:
        """Give up on attempts that were already in flight the last time."""
        for attempt in self._old:
            self.under_way.pop(attempt, None)
        self._old = list(self.under_way)
        self.lease_ends = now + _LEASE_SECONDS

    def answered(
        self, attempt: Attempt, crowd: int, tokens: float, usual_tokens: float, prompt: float, now: float
    ) -> None:
        """Learn from *attempt*, sent in that *crowd* and answered with *tokens* (*usual_tokens* are usual); its prompt
        exceeded the usual length by *prompt* times."""
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
        """Learn that *attempt* failed. A timeout also gives a lower bound on latency; a fast failure does not."""
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
        """Leave it alone for *seconds*, as it is out of capacity; None: for a second, twice that the next time …"""
        wait = _FIRST_AWAY_SECONDS * 2.0 ** min(self._refusals, _MOST_DOUBLINGS) if seconds is None else seconds
        self._refusals += 1
        self._catch_up(now)
        self.away_until = max(self.away_until, now + min(max(wait, 0.0), _LONGEST_AWAY_SECONDS))

    def cached(self, usage: Usage) -> None:
        """Learn from *usage* for a prompt that the provider's cache should have had."""
        if usage.input_tokens:
            share = min(usage.cached_tokens / usage.input_tokens, 1.0)
            self.cached_share += _CACHE_GAIN * (share - self.cached_share)

    def stats(self, now: float) -> TargetStats:
        """The figures people ask for."""
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
        """Learn from the sums; the next answer is learned from in full."""
        self.longest = 0.0
        if added := self.added:
            latency, tokens = self.latency, self.tokens / added
            first, seconds = self.firsts / added, max(self.firsts + self.rests, 0.0) / added
            if self.whole:  # the average cannot tell which part changed: split it in proportion
                first = seconds * latency.first / (latency.first + (tokens - 1.0) * latency.token)
            latency.learn(first, seconds, tokens, tokens, 0, now, answers=added)
            self._answers += added
            self.added, self.tokens, self.firsts, self.rests = 0, 0, 0.0, 0.0
