"""The smart router: learns from attempts, and says where a call should go."""

from __future__ import annotations

import random as system_random
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from llmkit_plugins.call import Attempt, Call, Target
from llmkit_plugins.clock import SYSTEM_CLOCK, Clock
from llmkit_plugins.errors import ConfigError, NoTarget
from llmkit_plugins.plugins.router.case import Case
from llmkit_plugins.plugins.router.config import RouterConfig
from llmkit_plugins.plugins.router.decision import Decision, why_of
from llmkit_plugins.plugins.router.explanation import Explanation, explain
from llmkit_plugins.plugins.router.exploration import Candidate, Exploration
from llmkit_plugins.plugins.router.goals import KEY, Aims, Goals
from llmkit_plugins.plugins.router.knowledge import Knowledge
from llmkit_plugins.plugins.router.scoring import AWAY, NEAR, VIOLATING, hope, score_for, with_limits
from llmkit_plugins.plugins.router.track import TargetStats

_HALF = 0.5


class SmartRouter:
    """Chooses where a call goes: by what was learned from attempts (latency, failures, load) and by price.

    The settings are given by name (``optimize_for="cost", max_latency_seconds=3.0`` …, see ``RouterConfig``) or as
    *config*. *targets* are those to choose from where none are given with a call. *random* gives numbers from 0 to 1.
    Times are seconds of *clock*. Raises ``ConfigError`` for wrong settings. Threads and tasks may share it.

    It learns from what it is told: ``decision = router.route(call)``, ``router.begin(attempt)`` when the attempt is
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
        self.config = config = config or RouterConfig(**settings)
        self.targets = tuple(targets)
        self.knowledge = Knowledge(config, clock)
        self.clock, self._random = clock, random
        self._aims = Aims(config)
        self._usual_score = score_for(self._aims.usual)
        self._exploration = Exploration(config.exploration, clock())
        self._winner = 0
        self._most_ranked = config.power_of_two_above

    def route(self, call: Call, targets: Sequence[Target] | None = None) -> Decision:
        """Where *call* should go. Raises ``NoTarget`` where none of the targets will do for it."""
        case = self._case(call, self.targets if targets is None else targets)
        if len(case.targets) > self._most_ranked:
            return self._two_choices(case)
        return self._best(case, call)

    def explain(self, call: Call, targets: Sequence[Target] | None = None) -> Explanation:
        """What is thought of each target for *call*, the best first. Raises ``NoTarget`` where none will do."""
        case = self._case(call, self.targets if targets is None else targets)
        self._look_at_prompt(case, call)
        return explain(case)

    def begin(self, attempt: Attempt) -> None:
        """*attempt* is under way."""
        self.knowledge.begin(attempt)

    def record(self, attempt: Attempt, call: Call | None = None) -> None:
        """*attempt* has ended: learn from it; given *call*, also what calls like it take."""
        self.knowledge.record(attempt, call)

    def stats(self) -> Mapping[str, TargetStats]:
        """What is known of each target, by name."""
        return self.knowledge.stats()

    def _case(self, call: Call, targets: Sequence[Target]) -> Case:
        aims, knowledge, now = self._aims, self.knowledge, self.clock()
        goals, score = aims.usual, self._usual_score
        if call.metadata and KEY in call.metadata:
            goals = aims.of(call.metadata)
            score = score_for(goals)
            if goals.selective:
                targets = _admitted(goals, targets)
        if not targets:
            raise NoTarget({})
        if goals.limited or now < knowledge.away_until:
            score = with_limits(score)
        return Case(call, goals, score, targets, knowledge.tracks(targets), knowledge.habits.of(call), now)

    def _two_choices(self, case: Case) -> Decision:
        """One at random against the last winner: power of two choices with memory (Mitzenmacher et al. 2002)."""
        one, other = int(self._random() * len(case.targets)), self._winner
        if other >= len(case.targets):
            other = one
        ones, others = case.score(case, (one, other))
        if ones < AWAY and self._exploration.forgotten(case.now - case.tracks[one].tried):
            ones = min(ones, hope(case, one, other))
        if others < ones:
            one, other, ones, others = other, one, others, ones
        if others <= ones * NEAR < VIOLATING and self._random() * (1.0 + _room(case, other, one)) > 1.0:
            one = other
        self._winner = one
        return Decision(case, one, "two_choices" if ones < VIOLATING else why_of(ones))

    def _best(self, case: Case, call: Call) -> Decision:
        prefix = self._look_at_prompt(case, call)
        scores = case.compare()
        best = min(scores)
        place = scores.index(best)
        if self._exploration.due(case.now) and best < AWAY and not call.attempts:
            probe = self._exploration.choose(self._candidates(case, scores, place), case.now)
            if probe is not None:
                return Decision(case, probe, "probe")
        if best >= VIOLATING:
            return Decision(case, place, why_of(best))
        return self._among_equals(case, scores, place, prefix)

    def _look_at_prompt(self, case: Case, call: Call) -> int:
        """Find out what the prompt has to do with it, as far as that matters; a hash of how it begins, or 0."""
        knowledge = self.knowledge
        if knowledge.prompts_matter:
            case.prompt = knowledge.habits.longer(case.input_tokens)
        if knowledge.affinity is None or not (prefix := knowledge.affinity.prefix(call)):
            return 0
        case.cached_at = knowledge.affinity.cached_at(prefix, case.now)
        return prefix

    def _candidates(self, case: Case, scores: Sequence[float], best: int) -> list[Candidate]:
        """The targets to try now and then."""
        others = [place for place, score in enumerate(scores) if place != best and score < AWAY]
        return [self._candidate(case, place, best, scores[best]) for place in others]

    def _candidate(self, case: Case, place: int, best: int, best_score: float) -> Candidate:
        track = case.tracks[place]
        slower = case.seconds(place) / track.latency.hoped_for(case.output_tokens)
        idle = case.now - track.tried
        return Candidate(place, hope(case, place, best) / best_score, slower, track.failing, idle)

    def _among_equals(self, case: Case, scores: Sequence[float], best: int, prefix: int) -> Decision:
        """The best, or of those about as good, the one whose turn it is."""
        limit = scores[best] * NEAR
        equals = [place for place, score in enumerate(scores) if score <= limit]
        if prefix and self.knowledge.affinity is not None:
            places = equals if self.config.affinity == "soft" else _fit(case, scores) or equals
            return Decision(case, self.knowledge.affinity.first(prefix, places, case.targets, case.tracks), "affinity")
        if len(equals) == 1:
            return Decision(case, best, "best")
        one, other = self._two_of(case, equals)
        less_busy = case.tracks[one].in_flight * case.targets[other].weight
        busier = less_busy > case.tracks[other].in_flight * case.targets[one].weight
        return Decision(case, other if busier else one, "near_equal")

    def _two_of(self, case: Case, places: Sequence[int]) -> tuple[int, int]:
        """Two of *places* by chance, in proportion to their weights; not always different ones."""
        random, count = self._random, len(places)
        weights = [case.targets[place].weight for place in places]
        if weights.count(weights[0]) == count:
            return places[int(random() * count)], places[int(random() * count)]
        sums = list(accumulate(weights))
        one, other = bisect(sums, random() * sums[-1]), bisect(sums, random() * sums[-1])
        return places[min(one, count - 1)], places[min(other, count - 1)]


def _room(case: Case, one: int, other: int) -> float:
    """How much more room *one* has than *other*, by weight and what is in flight."""
    ones = case.targets[one].weight / (case.tracks[one].in_flight + 1)
    return ones * (case.tracks[other].in_flight + 1) / (case.targets[other].weight or 1e-9)


def _fit(case: Case, scores: Sequence[float]) -> list[int]:
    """Where a call can go at all: to who meets the objectives and is more likely to answer than to fail."""
    return [n for n, score in enumerate(scores) if score < VIOLATING and case.tracks[n].failures.success > _HALF]


def _admitted(goals: Goals, targets: Sequence[Target]) -> tuple[Target, ...]:
    """Those of *targets* that a call with these *goals* accepts. Raises ``NoTarget``."""
    admitted = tuple([target for target in targets if goals.admits(target)])
    if targets and not admitted:
        raise NoTarget({target.name: "the call does not accept it" for target in targets})
    return admitted
