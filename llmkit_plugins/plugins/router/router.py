"""The smart router: learns from attempts, and says where a call should go."""

from __future__ import annotations

import random as system_random
from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from llmkit_plugins.call import Call, Target
from llmkit_plugins.clock import SYSTEM_CLOCK, Clock
from llmkit_plugins.conventions import ROUTE_WISHES
from llmkit_plugins.errors import ConfigError, NoTarget
from llmkit_plugins.plugins.router.case import Case, expected_tokens
from llmkit_plugins.plugins.router.config import RouterConfig
from llmkit_plugins.plugins.router.decision import Decision, Why, decide, new, why_of
from llmkit_plugins.plugins.router.explanation import Explanation, explain
from llmkit_plugins.plugins.router.exploration import Candidate, Exploration
from llmkit_plugins.plugins.router.goals import Aims, Goals
from llmkit_plugins.plugins.router.knowledge import Knowledge
from llmkit_plugins.plugins.router.lineup import Lineup
from llmkit_plugins.plugins.router.scoring import AWAY, FAR, NEAR, VIOLATING, compare, hope

_HALF = 0.5


class SmartRouter(Knowledge):
    """Chooses where a call goes, by what it has learned from attempts (latency, failures, load) and by price.

    Settings are given by name (``optimize_for="cost", max_latency_seconds=3.0`` …, see ``RouterConfig``) or as
    *config*. *targets* are the candidates if none are passed with a call. *random* returns numbers from 0 to 1. Times
    are in seconds of *clock*. Raises ``ConfigError`` for wrong settings. Threads and tasks may share a router.

    It learns from what you report: ``decision = router.route(call)``, ``router.begin(attempt)`` when the attempt is
    sent, ``router.record(attempt, call)`` when it has ended.
    """

    def __init__(
        self,
        targets: Sequence[Target] = (),
        config: RouterConfig | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        random: Callable[[], float] = system_random.random,
        **settings: Any,
    ) -> None:
        if config is not None and settings:
            raise ConfigError("is given beside a config", key=next(iter(settings)), right="one of the two")
        super().__init__(config or RouterConfig(**settings), clock)
        self.targets = tuple(targets)
        self._random = random
        self._aims = Aims(self.config)
        self._share = self.config.exploration
        self._exploration = Exploration(self._share, clock())
        self._most_ranked = self.config.power_of_two_above
        self._turn = self._winner = int(random() * len(self.targets))  # or processes started together start alike
        self._usual = usual = self._aims.usual
        self._latency_alone = usual if usual.mode == "latency" and not usual.limited else None

    def route(self, call: Call, targets: Sequence[Target] | None = None) -> Decision:
        """Where *call* should go. Raises ``NoTarget`` where none of the targets will do for it.

        Among many, the next in turn against the last winner: two choices with memory (Mitzenmacher et al. 2002); where
        one is about as good as the other, by chance, weight and what is in flight. (All inline: by latency alone it
        takes 0.6 µs; in four functions, 1.7.)
        """
        if targets is None:
            targets = self.targets
        goals, count = self._usual, len(targets)
        if call.metadata and ROUTE_WISHES in call.metadata:
            goals, targets = self._wanted(call, targets)
            count = len(targets)
        if count <= self._most_ranked or (self.affinity is not None and self.affinity.prefix(call)):
            return self._best(self._case(call, goals, targets, self._line_up(targets)))
        one, other = self._turn + 1, self._winner
        self._turn = one = one if one < count else 0
        if other >= count:
            other = one
        latest = self._latest
        if latest.targets is targets:
            tracks = latest.tracks
            track, rivals = tracks[one], tracks[other]
        else:
            track, rivals = self._track(targets[one]), self._track(targets[other])
            if targets is self.targets:
                self._latest = self._line_up(targets)
        latency, rivals_latency = track.latency, rivals.latency
        habit = self.habits.known.get((call.model, call.user)) or self.habits.of(call)
        tokens = expected_tokens(call, habit) if call.params else habit.output_tokens
        seconds = latency.first_now + tokens * latency.token_now
        rivals_seconds = rivals_latency.first_now + tokens * rivals_latency.token_now
        if goals is self._latency_alone and not self.any_away:
            score, rivals_score = seconds * track.failures.tries, rivals_seconds * rivals.failures.tries
        else:
            score, rivals_score = compare(self._pair(call, goals, targets, one, other))
        if track.tried < self.forgotten and score < AWAY and self._share:
            score = min(score, hope(self._pair(call, goals, targets, one, other), 0, 1))
        ratio = rivals_score / score
        why: Why = "two_choices"
        if FAR < ratio < NEAR:
            room = targets[one].weight * (rivals.in_flight + 1)
            rivals_turn = self._random() * (room + targets[other].weight * (track.in_flight + 1)) > room
        else:
            rivals_turn = ratio < 1.0
            if rivals_turn and self._random() < self._share * ratio and not call.attempts:
                rivals_turn, why = False, "probe"
        if rivals_turn:
            one, seconds, score = other, rivals_seconds, rivals_score
        if why != "probe":
            self._winner = one
        if score >= VIOLATING:
            why = why_of(score)
        decision = new(Decision)
        decision.target, decision.why, decision.predicted_seconds = targets[one], why, seconds
        decision.targets, decision.place, decision.call = targets, one, call
        decision.judge, decision.case = self, None
        return decision

    def explain(self, call: Call, targets: Sequence[Target] | None = None) -> Explanation:
        """What is thought of each target for *call*, the best first. Raises ``NoTarget`` where none will do."""
        case = self.case(call, self.targets if targets is None else targets)
        self._look_at_prompt(case)
        return explain(case)

    def case(self, call: Call, targets: Sequence[Target]) -> Case:
        """All there is to be known of *call*, if it can go to *targets*. Raises ``NoTarget`` where none will do."""
        goals, targets = self._wanted(call, targets)
        return self._case(call, goals, targets, self._line_up(targets))

    def _wanted(self, call: Call, targets: Sequence[Target]) -> tuple[Goals, Sequence[Target]]:
        """The goals of *call*, and those of *targets* it accepts. Raises ``NoTarget``."""
        goals = self._aims.of(call.metadata)
        if not goals.selective:
            return goals, targets
        admitted = tuple([target for target in targets if goals.admits(target)])
        if targets and not admitted:
            raise NoTarget({target.name: "the call does not accept it" for target in targets})
        return goals, admitted

    def _case(self, call: Call, goals: Goals, targets: Sequence[Target], lineup: Lineup) -> Case:
        case = new(Case)
        case.call, case.goals, case.targets, case.lineup, case.tracks = call, goals, targets, lineup, lineup.tracks
        case.now = now = self.clock()
        case.habit = habit = self.habits.known.get((call.model, call.user)) or self.habits.of(call)
        case.output_tokens = expected_tokens(call, habit) if call.params else habit.output_tokens
        case.prices, case.money = lineup.prices, 0.0 if lineup.alike else goals.cost
        case.any_last = goals.limited or (self.any_away and self._any_still_away(now))
        case.prompt, case.measured, case.scores = 0.0, None, None
        return case

    def _pair(self, call: Call, goals: Goals, targets: Sequence[Target], one: int, other: int) -> Case:
        if self._latest.targets is targets:
            pair = self._latest.pair(one, other)
        else:
            pair = self._new_lineup((targets[one], targets[other]))
        return self._case(call, goals, pair.targets, pair)

    def _any_still_away(self, now: float) -> bool:
        self.any_away = now < self.away_until
        return self.any_away

    def _best(self, case: Case) -> Decision:
        prefix = self._look_at_prompt(case) if self.prompts_matter or self.affinity is not None else 0
        scores = compare(case)
        best = min(scores)
        place = scores.index(best)
        if self._exploration.due(case.now) and best < AWAY and not case.call.attempts:
            probe = self._exploration.choose(self._candidates(case, scores, place), case.now)
            if probe is not None:
                return decide(case, probe, "probe")
        if best >= VIOLATING:
            return decide(case, place, why_of(best))
        limit = best * NEAR
        equals = [place for place, score in enumerate(scores) if score <= limit]
        if prefix and self.affinity is not None:
            places = equals if self.config.affinity == "soft" else _fit(case, scores) or equals
            return decide(case, self.affinity.first(prefix, places, case.targets, case.tracks), "affinity")
        if len(equals) == 1:
            return decide(case, place, "best")
        return decide(case, self._among(case, equals), "near_equal")

    def _look_at_prompt(self, case: Case) -> int:
        """Set what depends on the prompt, as far as it matters. Returns the hash of its prefix, or 0."""
        if self.prompts_matter:
            case.prompt = self.habits.longer(case.input_tokens)
        if self.affinity is None or not (prefix := self.affinity.prefix(case.call)):
            return 0
        if cached_at := self.affinity.cached_at(prefix, case.now):
            case.prices = case.lineup.discounted(cached_at)
        return prefix

    def _candidates(self, case: Case, scores: Sequence[float], best: int) -> list[Candidate]:
        """The targets to consider for exploration."""
        others = [place for place, score in enumerate(scores) if place != best and score < AWAY]
        luck = case.tracks[best].latency.usually(case.output_tokens) / case.seconds(best)
        lasting = scores[best] * max(luck, 1.0) ** case.goals.latency
        return [self._candidate(case, place, best, lasting) for place in others]

    def _candidate(self, case: Case, place: int, best: int, lasting: float) -> Candidate:
        track = case.tracks[place]
        slower = case.seconds(place) / track.latency.hoped_for(case.output_tokens)
        idle = case.now - track.tried
        return Candidate(place, hope(case, place, best) / lasting, slower, track.failing, idle)

    def _among(self, case: Case, equals: Sequence[int]) -> int:
        """Draw two of *equals* at random by weight, and take the one less busy for its weight."""
        random, count, weights = self._random, len(equals), case.lineup.weights
        if weights is None:
            one, other = equals[int(random() * count)], equals[int(random() * count)]
            return other if case.tracks[one].in_flight > case.tracks[other].in_flight else one
        sums = list(accumulate([weights[place] for place in equals]))
        one, other = (equals[min(bisect(sums, random() * sums[-1]), count - 1)] for _ in range(2))
        busier = case.tracks[one].in_flight * weights[other] > case.tracks[other].in_flight * weights[one]
        return other if busier else one


def _fit(case: Case, scores: Sequence[float]) -> list[int]:
    """The places of targets that meet the objectives and are more likely to answer than to fail."""
    return [n for n, score in enumerate(scores) if score < VIOLATING and case.tracks[n].failures.success > _HALF]
