"""Everything a router has learned: about targets, about calls, and about what was sent where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmkit_plugins.call import Attempt, Call, Target, Usage
from llmkit_plugins.clock import Clock
from llmkit_plugins.errors import NoTarget
from llmkit_plugins.forks import new_rlock
from llmkit_plugins.plugins.router.affinity import Affinity
from llmkit_plugins.plugins.router.config import RouterConfig
from llmkit_plugins.plugins.router.habits import Habits
from llmkit_plugins.plugins.router.lineup import Lineup
from llmkit_plugins.plugins.router.track import FLOOD, TargetStats, Track

FAILURES = frozenset({"overloaded", "timeout", "connection", "server", "auth", "not_found"})
"""The kinds of errors that the next attempt at the same target is likely to hit too."""

FORGOTTEN_SECONDS = 30.0
"""After this long without an attempt, what was last observed of a target may be out of date."""

_MOST_TARGETS = 10_000
_MOST_LINEUPS = 128
_PROMPT_MATTERS = 0.1
_NOBODY = Lineup((), (), discounts=False)


class Knowledge:
    """What was learned from attempts. Times are in seconds of *clock*.

    Covers at most ten thousand targets, by name; the oldest is forgotten first.
    """

    def __init__(self, config: RouterConfig, clock: Clock) -> None:
        self.config, self.clock = config, clock
        self.habits = Habits(config.output_tokens)
        self.affinity = None if config.affinity == "off" else Affinity(config.affinity_chars, config.cache_seconds)
        self.prompts_matter = False
        """Whether any target's first chunk comes notably later for long prompts."""
        self.any_away, self.away_until = False, float("-inf")
        """Whether any target asked to be left alone, and when the last of them is back."""
        self.forgotten = float("-inf")
        """Targets last tried before this time may have changed since."""
        self._tracks: dict[str, Track] = {}
        self._lineups: dict[tuple[Target, ...], Lineup] = {}
        self._latest = _NOBODY
        self._lock = new_rlock()

    def begin(self, attempt: Attempt) -> None:
        """Record that *attempt* is under way."""
        name = attempt.target.name
        track = self._tracks.get(name) or self._meet(name)
        track.tried = now = self.clock()
        self.forgotten = now - FORGOTTEN_SECONDS
        if now > track.lease_ends:
            track.forget_lost(now)
        latency, under_way = track.latency, track.under_way
        under_way[attempt] = latency.crowd
        track.in_flight = count = len(under_way)
        if not count & (count - 1) or latency.venturing:
            latency.beside(count)

    def record(self, attempt: Attempt, call: Call | None = None) -> None:
        """Learn from *attempt*, which has ended; given *call*, also learn what calls like it take.

        In a flood, answers like the previous ones are only summed and learned from as a batch: at every sixty-fourth,
        and every hundredth of a second. (Summing takes 0.25 µs, all inline; learning 1.5.)
        """
        target, usage, ended = attempt.target, attempt.usage, attempt.finished
        track = self._tracks.get(target.name) or self._meet(target.name)
        latency, under_way = track.latency, track.under_way
        crowd = under_way.pop(attempt, 0)
        track.in_flight = count = len(under_way)
        if attempt.outcome == "ok":
            started, chunk = attempt.started, attempt.first_chunk
            if ended and ended < track.flood_until and track.whole is (chunk is None) and started and usage:
                seconds = ended - started - attempt.paused_seconds
                if seconds < track.longest and crowd <= latency.densest:
                    factor = latency.factors[crowd]
                    if chunk is None:
                        track.rests += seconds - latency.first * (factor - 1.0)
                    else:
                        first = chunk - started
                        track.firsts += first / factor
                        track.rests += seconds - first
                    track.added = added = track.added + 1
                    track.tokens += usage.output_tokens
                    if not count & (count + 1) or latency.venturing:
                        latency.beside(count)
                    if not added & 15:
                        if call is not None:
                            self.habits.of(call).learn(call, usage)
                        if added > FLOOD:
                            track.longest = 0.0
                    return
            self._answered(track, attempt, call, crowd)
        elif attempt.outcome == "error":
            self._failed(track, attempt, crowd)
        latency.beside(count)

    def stats(self) -> Mapping[str, TargetStats]:
        """What is known of each target, by name."""
        now = self.clock()
        return {name: track.stats(now) for name, track in list(self._tracks.items())}

    def _line_up(self, targets: Sequence[Target]) -> Lineup:
        """What is known of each of *targets*. Raises ``NoTarget`` if there are none.

        (Cached: a kit offers the same targets again and again.)
        """
        targets = tuple(targets)
        return self._lineups.get(targets) or self._remember(targets)

    def _new_lineup(self, targets: Sequence[Target]) -> Lineup:
        return Lineup(targets, [self._track(target) for target in targets], discounts=self.affinity is not None)

    def _track(self, target: Target) -> Track:
        return self._tracks.get(target.name) or self._meet(target.name)

    def _answered(self, track: Track, attempt: Attempt, call: Call | None, crowd: int) -> None:
        habits, usage, prompt = self.habits, attempt.usage, 0.0
        habit = habits.of_all if call is None else habits.known.get((call.model, call.user)) or habits.of(call)
        usual = tokens = habit.output_tokens
        if usage is not None:
            tokens = usage.output_tokens
            if self.prompts_matter or track.latency.curious:
                prompt = habits.prompted(usage.input_tokens)
                self.prompts_matter = self.prompts_matter or track.latency.prompt_share > _PROMPT_MATTERS
            if call is not None:
                habit.learn(call, usage)
                if self.affinity is not None:
                    self._cached(self.affinity, track, attempt, call, usage)
        track.answered(attempt, crowd, tokens, usual, prompt, self.clock())
        if self.affinity is not None:
            track.longest = 0.0  # every answer says something about which prompts are cached

    def _failed(self, track: Track, attempt: Attempt, crowd: int) -> None:
        now = self.clock()
        if attempt.kind == "rate_limit" or (attempt.kind == "overloaded" and attempt.retry_after is not None):
            track.stay_away(attempt.retry_after, now)
            self.any_away, self.away_until = True, max(self.away_until, track.away_until)
        if attempt.kind in FAILURES:
            track.failed(attempt, crowd, now)

    def _cached(self, affinity: Affinity, track: Track, attempt: Attempt, call: Call, usage: Usage) -> None:
        """Learn whether the provider's cache had the prompt, and note that it has it now."""
        prefix, now = affinity.prefix(call), self.clock()
        if prefix:
            if attempt.target.name in affinity.cached_at(prefix, now):
                track.cached(usage)
            affinity.sent(prefix, attempt.target.name, now)

    def _meet(self, name: str) -> Track:
        config, now = self.config, self.clock()
        track = Track(config.first_chunk_seconds, config.seconds_per_output_token, config.half_life_seconds, now)
        with self._lock:
            while len(self._tracks) >= _MOST_TARGETS:
                del self._tracks[next(iter(self._tracks))]
                self._lineups.clear()
                self._latest = _NOBODY
            return self._tracks.setdefault(name, track)

    def _remember(self, targets: tuple[Target, ...]) -> Lineup:
        if not targets:
            raise NoTarget({})
        with self._lock:
            while len(self._lineups) >= _MOST_LINEUPS:
                del self._lineups[next(iter(self._lineups))]
            self._lineups[targets] = lineup = self._new_lineup(targets)
            return lineup
