"""How good a target is for a call, as one number: lower is better, and always positive and finite."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, exp2, log, log2, sqrt

from llmkit_plugins.plugins.router.case import Case
from llmkit_plugins.plugins.router.track import Track

NEAR = 1.2
"""A score up to this many times the best counts as about as good."""

FAR = 1.0 / NEAR
"""The same limit, for the better score relative to the worse."""

VIOLATING = 1e150
"""Scores from here on belong to targets that miss the objectives."""

AWAY = 1e200
"""Scores from here on belong to targets that asked to be left alone."""

UNKNOWN_USD = 1000.0
"""What an unknown price counts as, so that it ranks after all known ones."""

_NO_COST = 1e-8
_P90 = 1.2816
_JAM = 2.0
_TOLERATED = 1.5
_LARGEST_LOG = 430.0
_LARGEST_VIOLATION = 1e9
_TIE = 1e-6


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of a call at one target."""

    seconds: float
    p90_seconds: float
    """Nine in ten answers are complete within this time."""
    cost: float | None
    """USD; None if a price is unknown."""
    success: float
    """The chance of an answer."""


def predict(case: Case, place: int) -> Prediction:
    """What is expected at the target in that *place*, given what is in flight there now."""
    seconds, track = case.seconds(place), case.tracks[place]
    return Prediction(seconds, _p90(case, track, seconds), cost(case, place), track.failures.success)


def cost(case: Case, place: int) -> float | None:
    """Predicted USD, less what the provider's cache should save; None if a price is unknown."""
    price = case.prices[place]
    return None if price is None else case.input_tokens * price[0] + case.output_tokens * price[1]


def compare(case: Case) -> list[float]:
    """The scores of the targets, in their order: those that miss objectives rank after the rest, those away last."""
    case.scores = scores = _by_latency(case) if case.goals.mode == "latency" else _weighed(case)
    if case.any_last:
        case.scores = scores = [_limited(case, place, score) for place, score in enumerate(scores)]
    return scores


def hope(case: Case, place: int, best: int) -> float:
    """The score it would have, unloaded, at its long-run performance; if hardly known, as fast as *best*."""
    track = case.tracks[place]
    seconds, success = track.latency.hoped_for(case.output_tokens), 1.0 - track.failures.usual_rate
    if not track.latency.known:
        seconds = min(seconds, case.seconds(best))
    if case.goals.limited and (missed := _missed(case, place, seconds, success)):
        return VIOLATING * (1.0 + missed)
    total = case.goals.latency * log2(seconds) - case.goals.reliability * log2(success)
    if case.money:
        usd = cost(case, place)
        total += case.money * log2((UNKNOWN_USD if usd is None else usd) + _NO_COST)
    return exp2(total if total < _LARGEST_LOG else _LARGEST_LOG)


def _by_latency(case: Case) -> list[float]:
    """Scores by latency alone; errors count as slow. (The general form takes four times as long.)"""
    tokens, prompt = case.output_tokens, case.prompt
    if prompt:
        return [case.seconds(place) * track.failures.tries for place, track in enumerate(case.tracks)]
    return [
        (track.latency.first_now + tokens * track.latency.token_now) * track.failures.tries for track in case.tracks
    ]


def _weighed(case: Case) -> list[float]:
    """Products of powers. If seconds count little, being slower than usual still counts: a jam is good for nothing.

    (Sums of logarithms, all inline: a function per target takes half as long again. Base 2 takes a third of the time
    of the natural logarithm.)
    """
    tokens, prompt, scores = case.output_tokens, case.prompt, []
    by_time, by_chance, money, prices = case.goals.latency, case.goals.reliability, case.money, case.prices
    input_tokens = case.input_tokens if money else 0.0
    for place, track in enumerate(case.tracks):
        latency = track.latency
        seconds = case.seconds(place) if prompt else latency.first_now + tokens * latency.token_now
        total = by_time * log2(seconds) + by_chance * track.failures.log_tries
        if money:
            price = prices[place]
            usd = UNKNOWN_USD if price is None else input_tokens * price[0] + tokens * price[1]
            total += money * log2(usd + _NO_COST)
        if by_time < 1.0 and seconds > (usual := _TOLERATED * latency.hoped_for(tokens)):
            total += _JAM * log2(seconds / usual)
        scores.append(exp2(total if total < _LARGEST_LOG else _LARGEST_LOG))
    return scores


def _limited(case: Case, place: int, score: float) -> float:
    away = case.tracks[place].away_until - case.now
    if away > 0.0:
        return AWAY * (1.0 + away)
    missed = violation(case, place) if case.goals.limited else 0.0
    return VIOLATING * (1.0 + missed + _TIE * score / (1.0 + score)) if missed else score


def violation(case: Case, place: int) -> float:
    """The sum of the relative amounts by which each objective is missed there; 0 if all are met."""
    return _missed(case, place, case.seconds(place), case.tracks[place].failures.success)


def _missed(case: Case, place: int, seconds: float, success: float) -> float:
    goals, missed = case.goals, 0.0
    if goals.max_latency_seconds is not None:
        missed += _beyond(_p90(case, case.tracks[place], seconds) / goals.max_latency_seconds)
    if goals.max_cost_usd is not None:
        usd = cost(case, place)
        missed += _beyond((UNKNOWN_USD if usd is None else usd) / goals.max_cost_usd)
    if goals.min_success_rate is not None:
        missed += _beyond(goals.min_success_rate / success)
    return missed if missed < _LARGEST_VIOLATION else _LARGEST_VIOLATION


def _beyond(part: float) -> float:
    return part - 1.0 if part > 1.0 else 0.0


def _p90(case: Case, track: Track, seconds: float) -> float:
    """Of a log-normal sum (Fenton and Wilkinson): the target's spread and that of answer lengths."""
    answer = case.output_tokens * track.latency.token / seconds
    spread = log(1.0 + track.latency.spread + answer * answer * case.habit.spread)
    return seconds * exp(_P90 * sqrt(spread) - spread / 2)
