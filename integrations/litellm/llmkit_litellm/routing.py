"""Which deployment to try next: LiteLLM says which are healthy and which it would pick; the plugins decide."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from functools import partial
from typing import Any

from llmkit_litellm import compat
from llmkit_litellm.compat import Deployment
from llmkit_litellm.errors import as_litellm
from llmkit_litellm.journey import Journey, journey_under_way
from llmkit_plugins.call import Target
from llmkit_plugins.engine.lifecycle import refusal_of
from llmkit_plugins.errors import Refused
from llmkit_plugins.steps import Ask


def steered(router: Any, context: tuple[Any, Any], request_kwargs: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """The strategy and selector for *router* to use: ours for a call of ours, else its own, *context*."""
    journey = journey_under_way()
    if journey is None or isinstance(context[1], Selector) or not compat.selects(request_kwargs):
        return context
    return compat.STRATEGY, Selector(journey, router, *context)


class Selector:
    """What a Router asks to choose among its healthy deployments, after all its filters."""

    def __init__(self, journey: Journey, router: Any, strategy: str | None, selector: Any) -> None:
        self.journey, self.router, self.strategy, self.selector = journey, router, strategy, selector

    def get_available_deployments(
        self, model_group: str, healthy_deployments: Sequence[Deployment], **request: Any
    ) -> Deployment | None:
        """The deployment to send to, with its attempt begun. None if LiteLLM's own strategy would pick none."""
        flow, value = self._choose(model_group, healthy_deployments, request), None
        resume: Any = flow.send
        try:
            while True:
                step = resume(value)
                try:
                    resume, value = flow.send, step.run()
                except Refused as refusal:
                    resume, value = flow.throw, refusal
        except StopIteration as end:
            chosen: Deployment | None = end.value
            return chosen

    async def async_get_available_deployments(
        self, model_group: str, healthy_deployments: Sequence[Deployment], **request: Any
    ) -> Deployment | None:
        """The same, async: awaits where a plugin waits."""
        flow, value = self._choose(model_group, healthy_deployments, request), None
        resume: Any = flow.send
        try:
            while True:
                step = resume(value)
                try:
                    resume, value = flow.send, await step.arun()
                except Refused as refusal:
                    resume, value = flow.throw, refusal
        except StopIteration as end:
            chosen: Deployment | None = end.value
            return chosen

    def _choose(
        self, model: str, healthy: Sequence[Deployment], request: Mapping[str, Any]
    ) -> Generator[Ask, Any, Deployment | None]:
        journey = self.journey
        journey.give_up()
        places = {journey.book.target(deployment): deployment for deployment in healthy}
        left, dropped = journey.untried(list(places)), dict[str, str | Refused]()
        while left:
            favourite = yield from self._pick(model, left, places, request)
            if favourite is None:
                return None
            ordered = [favourite, *(target for target in left if target is not favourite)]
            kept = self._route(ordered, dropped)
            if not kept:
                break
            target = kept[0]
            if favourite not in kept and _in_order(kept, ordered):  # only narrowed: LiteLLM picks among the rest
                target = (yield from self._pick(model, kept, places, request)) or target
            left = [other for other in left if other is not target]
            journey.tried.add(target.name)
            try:
                yield Ask(partial(journey.begin, target), partial(journey.abegin, target))
            except Refused as refusal:
                dropped[target.name] = refusal
            else:
                return places[target]
        raise journey.failure or as_litellm(refusal_of(dropped), model)

    def _pick(
        self, model: str, targets: Sequence[Target], places: Mapping[Target, Deployment], request: Mapping[str, Any]
    ) -> Generator[Ask, Any, Target | None]:
        deployments = [places[target] for target in targets]
        if self.strategy == compat.SHUFFLE:
            picked = compat.shuffled(self.router, model, deployments, request)
        else:
            asked = (self.router, self.strategy, self.selector, model, deployments, request)
            picked = yield Ask(partial(compat.pick, *asked), partial(compat.apick, *asked))
        for target, deployment in zip(targets, deployments, strict=True):
            if deployment is picked:
                return target
        return targets[0] if picked else None

    def _route(self, targets: Sequence[Target], dropped: dict[str, str | Refused]) -> Sequence[Target]:
        try:
            return self.journey.kit.route(self.journey.call, targets, dropped)
        except Refused as refusal:
            raise as_litellm(refusal, self.journey.call.model) from refusal


def _in_order(kept: Sequence[Target], given: Sequence[Target]) -> bool:
    remaining = iter(given)
    return all(target in remaining for target in kept)
