"""All that a router has learned: of targets, of calls, and of what was sent where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import RLock

from llmkit_plugins.call import Attempt, Call, Target
from llmkit_plugins.clock import Clock
from llmkit_plugins.plugins.router.affinity import Affinity
from llmkit_plugins.plugins.router.config import RouterConfig
from llmkit_plugins.plugins.router.habits import Habits
from llmkit_plugins.plugins.router.track import TargetStats, Track

FAILURES = frozenset({"overloaded", "timeout", "connection", "server", "auth"})
"""The kinds of errors that the next attempt there is likely to meet too."""

_MOST_TARGETS = 10_000
_PROMPT_MATTERS = 0.1


class Knowledge:
    """What was learned from attempts. Times are seconds of *clock*.

    Of at most ten thousand targets, by name; the one met first is forgotten first.
    """

    def __init__(self, config: RouterConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._tracks: dict[str, Track] = {}
        self._latest: tuple[Sequence[Target], list[Track]] = ((), [])
        self._lock = RLock()
        self.habits = Habits(config.output_tokens)
        self.affinity = None if config.affinity == "off" else Affinity(config.affinity_chars, config.cache_seconds)
        self.prompts_matter = False
        """Whether there are targets whose first chunk is notably later for long prompts."""
        self.away_until = float("-inf")
        """When the last of the targets is back that asked to be left alone."""

    def tracks(self, targets: Sequence[Target]) -> list[Track]:
        """What is known of each of *targets*. (Asked again for the same tuple, it does not look them up.)"""
        latest, tracks = self._latest
        if latest is not targets:
            tracks = [self.track(target) for target in targets]
            if isinstance(targets, tuple):
                self._latest = (targets, tracks)
        return tracks

    def track(self, target: Target) -> Track:
        """What is known of *target*."""
        return self._tracks.get(target.name) or self._meet(target.name)

    def begin(self, attempt: Attempt) -> None:
        """*attempt* is under way."""
        self.track(attempt.target).begin(attempt, self._clock())

    def record(self, attempt: Attempt, call: Call | None = None) -> None:
        """*attempt* has ended: learn from it; given *call*, also what calls like it take."""
        track = self.track(attempt.target)
        crowd = track.end(attempt)
        if attempt.outcome == "ok":
            self._answered(track, attempt, call, crowd)
        elif attempt.outcome == "error":
            self._failed(track, attempt, crowd)

    def stats(self) -> Mapping[str, TargetStats]:
        """What is known of each target, by name."""
        now = self._clock()
        return {name: track.stats(now) for name, track in list(self._tracks.items())}

    def _answered(self, track: Track, attempt: Attempt, call: Call | None, crowd: int) -> None:
        habit, usage, prompt = self.habits.of_all if call is None else self.habits.of(call), attempt.usage, 0.0
        usual = tokens = habit.output_tokens
        if usage is not None:
            tokens = usage.output_tokens
            if self.prompts_matter or track.latency.curious:
                prompt = self.habits.prompted(usage.input_tokens)
                self.prompts_matter = self.prompts_matter or track.latency.prompt_share > _PROMPT_MATTERS
            if call is not None:
                habit.learn(call, usage)
                if self.affinity is not None:
                    self._cached(self.affinity, track, attempt, call)
        track.answered(attempt, crowd, tokens, usual, prompt, self._clock())

    def _failed(self, track: Track, attempt: Attempt, crowd: int) -> None:
        now = self._clock()
        if attempt.kind == "rate_limit" or (attempt.kind == "overloaded" and attempt.retry_after is not None):
            track.stay_away(attempt.retry_after, now)
            self.away_until = max(self.away_until, track.away_until)
        if attempt.kind in FAILURES:
            track.failed(attempt, crowd, now)

    def _cached(self, affinity: Affinity, track: Track, attempt: Attempt, call: Call) -> None:
        """Whether the provider's cache knew the prompt, and that it does now."""
        prefix, usage, now = affinity.prefix(call), attempt.usage, self._clock()
        if prefix and usage is not None:
            if attempt.target.name in affinity.cached_at(prefix, now):
                track.cached(usage)
            affinity.sent(prefix, attempt.target.name, now)

    def _meet(self, name: str) -> Track:
        config, now = self._config, self._clock()
        track = Track(config.first_chunk_seconds, config.seconds_per_output_token, config.half_life_seconds, now)
        with self._lock:
            while len(self._tracks) >= _MOST_TARGETS:
                del self._tracks[next(iter(self._tracks))]
            return self._tracks.setdefault(name, track)
