"""The hooks: they only translate."""

from __future__ import annotations

import random as system_random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llmkit_plugins.call import Attempt, Call, Target
from llmkit_plugins.errors import NoTarget
from llmkit_plugins.events import Events, Routed
from llmkit_plugins.hookspecs import hookimpl
from llmkit_plugins.plugins.router.budget import FailoverBudget
from llmkit_plugins.plugins.router.config import RouterConfig
from llmkit_plugins.plugins.router.explanation import Explanation
from llmkit_plugins.plugins.router.router import SmartRouter

if TYPE_CHECKING:
    from llmkit_plugins.kit import LLMKit


class RouterPlugin:
    """Ranks the targets of each attempt by what was learned from earlier ones, and bounds the failovers of the kit.

    *settings* are those of :class:`RouterConfig`; *random* returns numbers from 0 to 1. A call may override the
    settings: ``metadata={"route": {"optimize_for": "latency", "only": ["fast"]}}``. Publishes ``Routed``. Raises
    ``ConfigError``.
    """

    Config = RouterConfig
    name = "router"

    def __init__(self, *, random: Callable[[], float] = system_random.random, **settings: Any) -> None:
        self._random = random
        self.router = SmartRouter(random=random, **settings)
        self._events: Events | None = None
        self._budget = self._failover_budget()

    @property
    def config(self) -> RouterConfig:
        """The settings."""
        return self.router.config

    def attach(self, kit: LLMKit) -> None:
        """Choose among the targets of *kit*, by its clock."""
        self.router = SmartRouter(kit.targets, self.config, clock=kit.clock, random=self._random)
        self._budget = self._failover_budget()
        self._events = kit.events

    def explain(self, call: Call, targets: Sequence[Target] | None = None) -> Explanation:
        """What is thought of each target for *call*. Raises ``NoTarget`` where none will do."""
        return self.router.explain(call, targets)

    @hookimpl
    def llmkit_route(self, call: Call, targets: Sequence[Target]) -> Sequence[Target]:
        now = self.router.clock()
        if not call.attempts:
            self._budget.called(now)
        elif call.attempts[-1].outcome == "error" and not self._budget.spend(now):
            return ()
        try:
            decision = self.router.route(call, targets)
        except NoTarget:
            return ()
        if self._events is not None and self._events.wanted(Routed):
            why, seconds = decision.why, decision.predicted_seconds
            self._events.publish(Routed(call, decision.target, why, seconds, lambda: decision.predicted_cost))
        return decision.order

    @hookimpl
    def llmkit_pre_attempt(self, attempt: Attempt) -> None:
        self.router.begin(attempt)

    @hookimpl
    def llmkit_post_attempt(self, call: Call, attempt: Attempt) -> None:
        self.router.record(attempt, call)

    def _failover_budget(self) -> FailoverBudget:
        return FailoverBudget(self.config.failover_share, self.config.failover_floor, self.router.clock())
