"""Tickets that have taken nothing yet, with the expected or known demand of a call at each level of a plan."""

from __future__ import annotations

from collections.abc import Mapping

from llmkit_plugins.call import Call, Target, Usage
from llmkit_plugins.errors import ConfigError, RateLimited
from llmkit_plugins.plugins.rate_limiter.adaptive import TargetPace
from llmkit_plugins.plugins.rate_limiter.levels import shown
from llmkit_plugins.plugins.rate_limiter.plans import Keys, Plan
from llmkit_plugins.plugins.rate_limiter.ticket import Books, Ticket
from llmkit_plugins.tokens import max_output_tokens, measured_prompt


def expected(
    books: Books, plan: Plan, keys: Keys, pace: TargetPace | None, call: Call, target: Target | None
) -> Ticket:
    """A ticket for what *call* is expected to use, at *target* if one is chosen.

    An estimate is capped at a whole burst: a call that needs more than a limit can hold uses it up or leaves a debt.
    """
    amounts = foreseen(books, plan, call, target)
    learn_as = call.model if target is None else target.model, measured_prompt(call)
    return Ticket(books, plan, keys, plan.expected(amounts), pace, amounts, learn_as)


def foreseen(books: Books, plan: Plan, call: Call, target: Target | None) -> dict[str, float]:
    """The tokens that *call* is expected to use and, if a limit counts them, the dollars, at the prices of *target* if
    it has any."""
    model = call.model if target is None else target.model
    sent, answered = books.estimator.tokens(model, measured_prompt(call), max_output_tokens(call.params))
    cost = 0.0
    if plan.priced:
        priced = None if target is None else target.cost(Usage(round(sent), round(answered)))
        cost = books.estimator.cost(model, sent + answered) if priced is None else priced
    return {"tokens": sent + answered, "input_tokens": sent, "output_tokens": answered, "cost": cost}


def exactly(books: Books, plan: Plan, keys: Keys, amounts: Mapping[str, float], pace: TargetPace | None) -> Ticket:
    """A ticket for known *amounts*. Raises ``RateLimited`` if a limit can never admit them."""
    if not plan.metered:
        return Ticket(books, plan, keys, plan.ones, pace)
    for name, amount in amounts.items():
        if not 0.0 <= amount < float("inf"):
            raise ConfigError(f"{amount!r} is not valid", key=name, right="a number, 0 or more")
    amounts = {**amounts, "tokens": amounts["input_tokens"] + amounts["output_tokens"]}
    steps = [level.interval * amounts.get(level.meter, 1.0) for level in plan.levels]
    for level, key, step in zip(plan.levels, keys, steps, strict=True):
        if step > level.depth:
            level.refused += 1
            raise RateLimited(level.name, shown(key))
    return Ticket(books, plan, keys, steps, pace, amounts)
