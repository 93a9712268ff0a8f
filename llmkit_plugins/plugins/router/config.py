"""The settings of a smart router."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmkit_plugins.settings import Settings

OptimizeFor = Literal["latency", "cost", "reliability", "balanced"]


class Weights(Settings):
    """How much each quantity counts when ``optimize_for`` is ``balanced``: exponents of seconds, USD and the chance of
    an answer.

    With latency 2 and cost 1, half the latency is worth four times the price. With reliability 10 and cost 1, a target
    that fails one time in ten has to be 2.9 times as cheap.
    """

    latency: float = Field(default=2.0, ge=0, le=10, description="Exponent of the predicted seconds.")
    cost: float = Field(default=1.0, ge=0, le=10, description="Exponent of the predicted USD.")
    reliability: float = Field(default=10.0, ge=0, le=400, description="Exponent of the chance of an answer.")


class RouterConfig(Settings):
    """What a router optimizes for, and how it learns."""

    optimize_for: OptimizeFor | None = Field(
        default=None,
        description="What to optimize for; if not given, the cheapest target that meets the objectives, or "
        "balanced if there are none.",
    )
    max_latency_seconds: float | None = Field(
        default=None, gt=0, description="Objective: nine in ten answers should be complete within this time."
    )
    max_cost_usd: float | None = Field(default=None, gt=0, description="Objective: the most a call should cost.")
    min_success_rate: float | None = Field(
        default=None, gt=0, lt=1, description="Objective: the share of attempts that should succeed."
    )
    weights: Weights = Field(
        default=Weights(), description="How much each quantity counts when optimize_for is balanced."
    )
    affinity: Literal["off", "soft", "strict"] = Field(
        default="off",
        description="Send calls whose prompts begin alike to the same target, whose cache then has the prefix: "
        "soft among targets that are about as good, strict among all targets that are fit.",
    )
    affinity_chars: int = Field(
        default=4096, ge=1, description="How many leading characters must match; shorter prompts have no affinity."
    )
    cache_seconds: float = Field(default=300.0, gt=0, description="How long a provider's cache is assumed to last.")
    exploration: float = Field(
        default=0.01, ge=0, le=0.5, description="Budget for trying other targets, as a share of all calls."
    )
    half_life_seconds: float = Field(
        default=10.0,
        gt=0,
        description="After this long without an answer, the next one counts as much as all earlier ones together.",
    )
    power_of_two_above: int = Field(
        default=64,
        ge=0,
        description="With more targets than this, compare only the next in turn with the last winner; with "
        "affinity, all are compared if the prompt is long enough.",
    )
    failover_share: float = Field(
        default=0.2, ge=0, le=1, description="Failovers allowed across all calls, as a share of recent calls."
    )
    failover_floor: int = Field(default=10, ge=0, description="Failovers per ten seconds that are always allowed.")
    first_chunk_seconds: float = Field(
        default=0.5, gt=0, le=1000, description="Time to the first chunk, assumed for a target before its first answer."
    )
    seconds_per_output_token: float = Field(
        default=0.02, gt=0, le=100, description="Time per output token, assumed for a target before its first answer."
    )
    output_tokens: float = Field(default=200.0, gt=0, description="Length of an answer, assumed before the first one.")
