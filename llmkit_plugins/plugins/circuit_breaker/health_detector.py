"""When a target is no longer healthy: rates, runs of failures and latencies, taken together."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, log

from llmkit_plugins.plugins.circuit_breaker.config import CircuitBreakerConfig
from llmkit_plugins.plugins.circuit_breaker.histogram import FIRST, LARGEST, SCALE, SMALLEST, Histogram, clamped
from llmkit_plugins.plugins.circuit_breaker.latencies import Latencies, Parts
from llmkit_plugins.plugins.circuit_breaker.states import Reason
from llmkit_plugins.plugins.circuit_breaker.window import Window, wilson_lower_bound


class HealthDetector:
    """Counts outcomes, and returns the ``Reason`` when health is lost. Times are in seconds.

    An answer took *seconds* (None: it has only begun) and has *parts* to compare with earlier ones.
    """

    __slots__ = ("_config", "_failures", "_limits", "_slow_seconds", "avoid_until", "histogram", "latencies", "window")

    avoid_until: float | None
    """The latest time that a ``Retry-After`` named in the current run of bad answers."""

    def __init__(self, config: CircuitBreakerConfig, now: float) -> None:
        self._config = config
        self._slow_seconds = config.slow_call_seconds
        self.reset(now)

    def reset(self, now: float) -> None:
        """Forget everything."""
        self.window = Window(self._config.window_seconds, now)
        self.histogram = Histogram(self._config.window_seconds, now)
        self.latencies = Latencies(self._config, now)
        self._end_run()

    def recovered(self, now: float) -> None:
        """Forget what was wrong; percentiles and latency baselines stay."""
        self.window.clear()
        self.latencies.calm(now)
        self._end_run()

    def answered(self, now: float, seconds: float) -> Reason | None:
        """Learn from an answer without parts; returns a reason to open, if any.

        This is most of the cost of a guarded call, hence the inline counting: ``count`` would add a quarter.
        """
        if not SMALLEST < seconds < LARGEST:
            seconds = SMALLEST if seconds <= SMALLEST else LARGEST
        log_seconds = log(seconds)
        window, histogram = self.window, self.histogram
        if now >= window.ends:
            self._turn(now)
        window.calls += 1
        histogram.seconds += seconds
        try:
            histogram.counts[int(log_seconds * SCALE + FIRST)] += 1
        except OverflowError:
            histogram.rotate(now)
        if self._failures or self._limits:
            self._end_run()
        if (whole := self.latencies.whole).exceeded(log_seconds):
            return self.latencies.risen(now, "latency", whole)
        return None if self._slow_seconds is None else self._slow(now, seconds)

    def heard(self, now: float, seconds: float | None, parts: Parts) -> Reason | None:
        """Learn from any answer; returns a reason to open, if any."""
        whole, first_chunk, per_token = parts
        if whole is not None:
            return self.answered(now, whole)
        if seconds is not None:
            self.count(now, seconds)
            if self._failures or self._limits:
                self._end_run()
        latencies = self.latencies
        if first_chunk is not None:
            watched = latencies.first_chunk or latencies.watch_first_chunk()
            if watched.exceeded(log(clamped(first_chunk))):
                return latencies.risen(now, "time_to_first_chunk", watched)
        if per_token is not None:
            watched = latencies.per_token or latencies.watch_per_token()
            if watched.exceeded(log(clamped(per_token))):
                return latencies.risen(now, "seconds_per_output_token", watched)
        return None if self._slow_seconds is None else self._slow(now, first_chunk)

    def probed(self, now: float, seconds: float | None, parts: Parts) -> Reason | None:
        """Judge a probe's answer without learning from it; returns a reason to reopen, if any."""
        if seconds is not None:
            self.count(now, seconds)
        whole, first_chunk, _ = parts
        time, limit = whole or first_chunk, self._slow_seconds
        if time is not None and limit is not None and time > limit:
            return Reason("slow_call_seconds", time, limit)
        return self.latencies.unusual(now, parts)

    def failed(self, now: float, seconds: float | None, *, timed_out: bool) -> Reason | None:
        """Learn from a failure; returns a reason to open, if any. A timeout is both a failure and slow."""
        self.window.add(now, calls=1, failures=1)
        self._failures += 1
        reason = self._run_of_failures() or self._failure_rate(now)
        if timed_out:
            risen = None if seconds is None else self.latencies.timed_out(now, seconds)
            reason = reason or risen or self._slow(now, inf)
        return reason

    def limited(self) -> Reason | None:
        """Count a rate-limited answer; returns a reason to open if they persist."""
        self._limits += 1
        threshold = self._config.rate_limit_failures
        return Reason("rate_limit", self._limits, threshold) if self._limits >= threshold else None

    def avoid(self, until: float) -> None:
        """Take note of a ``Retry-After``."""
        self.avoid_until = until if self.avoid_until is None else max(self.avoid_until, until)

    def count(self, now: float, seconds: float) -> None:
        """Only count an answer."""
        if now >= self.window.ends:
            self._turn(now)
        self.window.calls += 1
        self.histogram.add(now, seconds)

    def _turn(self, now: float) -> None:
        self.window.turn(now)
        self.histogram.turn(now)
        self.latencies.keep_pace(self.window.counts(now).calls / self._config.window_seconds)

    def _end_run(self) -> None:
        self._failures = self._limits = 0
        self.avoid_until = None

    def _run_of_failures(self) -> Reason | None:
        threshold = self._config.consecutive_failures
        return Reason("consecutive_failures", self._failures, threshold) if self._failures >= threshold else None

    def _failure_rate(self, now: float) -> Reason | None:
        stretches = ((calls, failures) for calls, failures, _ in self.window.stretches(now))
        return self._rate("failure_rate", stretches, self._config.failure_rate)

    def _slow(self, now: float, seconds: float | None) -> Reason | None:
        """Count an answer that was too slow in absolute terms."""
        limit = self._slow_seconds
        if limit is None or seconds is None or seconds <= limit:
            return None
        self.window.add(now, slow=1)
        # A stream is found slow when it begins, but its call is counted when it ends.
        stretches = ((calls, min(slow, calls)) for calls, _, slow in self.window.stretches(now))
        return self._rate("slow_call_rate", stretches, self._config.slow_call_rate)

    def _rate(self, statistic: str, stretches: Iterable[tuple[int, int]], threshold: float) -> Reason | None:
        """A reason if any stretch up to now proves a rate above *threshold*, so past health cannot hide new trouble."""
        enough, z_score = self._config.minimum_calls, self._config.z_score
        bounds = (wilson_lower_bound(hits, calls, z_score) for calls, hits in stretches if calls >= enough)
        proven = max(bounds, default=0.0)
        return Reason(statistic, proven, threshold) if proven > threshold else None
