"""The limits of each deployment in a Router's model list: ``rpm`` and ``tpm``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmkit_plugins.call import Attempt, Call, Target
from llmkit_plugins.hookspecs import hookimpl
from llmkit_plugins.kit import LLMKit
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiterConfig, RateLimiterPlugin

Allowance = tuple[str, Any, Any]
"""A deployment's name, requests per minute and tokens per minute."""


class DeploymentLimits:
    """Enforces the ``rpm`` and ``tpm`` of deployments: one with nothing left is passed over for one that has some.

    Each deployment has its own rate limiter, set up like the kit's by *config*: if that one only counts, so do these,
    and if it shares its counts between processes, so do these. A limit of 0 or less is no limit, as in LiteLLM's
    default strategy.
    """

    name = "deployment_limits"

    def __init__(self, kit: LLMKit, config: RateLimiterConfig) -> None:
        self._kit, self._store = kit, config.store
        self._on_limit = "shadow" if config.on_limit == "shadow" else "reject"
        self._limiters: dict[Allowance, RateLimiterPlugin] = {}

    @hookimpl
    def llmkit_route(self, call: Call, targets: Sequence[Target]) -> Sequence[Target] | None:
        if self._on_limit == "shadow":
            return None
        free = [target for target in targets if self._has_some_left(call, target)]
        return free if 0 < len(free) < len(targets) else None

    @hookimpl
    def llmkit_pre_attempt(self, call: Call, attempt: Attempt) -> Any:
        limiter = self._limiter(attempt.target)
        return None if limiter is None else limiter.llmkit_pre_attempt(call, attempt)

    @hookimpl
    def llmkit_post_attempt(self, call: Call, attempt: Attempt) -> None:
        limiter = self._limiter(attempt.target)
        if limiter is not None:
            limiter.llmkit_post_attempt(call, attempt)

    def _has_some_left(self, call: Call, target: Target) -> bool:
        limiter = self._limiter(target)
        return limiter is None or limiter.limiter.outlook(call, target) is None

    def _limiter(self, target: Target) -> RateLimiterPlugin | None:
        rpm, tpm = target.metadata.get("rpm"), target.metadata.get("tpm")
        if not rpm and not tpm:
            return None
        allowance = target.name, rpm, tpm
        limiter = self._limiters.get(allowance)
        if limiter is None:
            made = RateLimiterPlugin(
                limits=_limits(*allowance), on_limit=self._on_limit, learn_from_providers=False, store=self._store
            )
            made.attach(self._kit)
            limiter = self._limiters.setdefault(allowance, made)
        return limiter


def _limits(name: str, rpm: Any, tpm: Any) -> list[Limit]:
    limits = []
    if rpm and float(rpm) > 0:
        limits.append(Limit(requests=f"{rpm}/min", per=("target",), name=f"rpm of {name}"))
    if tpm and float(tpm) > 0:
        limits.append(Limit(tokens=f"{tpm}/min", per=("target",), name=f"tpm of {name}"))
    return limits


def limit_deployments(kit: LLMKit) -> None:
    """Have *kit*, if it limits at all, enforce the limits of deployments right after its own."""
    plugins = kit.plugins
    if DeploymentLimits.name in plugins:
        return
    for place, plugin in enumerate(plugins.values(), start=1):
        if isinstance(plugin, RateLimiterPlugin):
            kit.register(DeploymentLimits(kit, plugin.config), at=place)
            return
