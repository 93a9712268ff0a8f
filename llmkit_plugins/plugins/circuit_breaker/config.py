"""The settings of a circuit breaker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from llmkit_plugins.errors import ConfigError
from llmkit_plugins.settings import Settings

PRESETS: dict[str, dict[str, float]] = {
    "aggressive": {"z_score": 1.5, "open_seconds": 10.0},
    "production": {"z_score": 2.5, "open_seconds": 60.0},
    "conservative": {"z_score": 3.0, "open_seconds": 120.0},
}


class CircuitBreakerConfig(Settings):
    """When a circuit opens, for how long, and how it closes again. Times are in seconds."""

    preset: Literal["aggressive", "production", "conservative"] = Field(
        default="production", description="Supplies z_score and open_seconds unless they are given."
    )
    z_score: float = Field(
        default=2.5,
        gt=0,
        le=10,
        description="Standard deviations that count as an anomaly, both of log latency and for the confidence in "
        "a rate.",
    )
    open_seconds: float = Field(default=60.0, gt=0, description="How long the circuit stays open the first time.")
    max_open_seconds: float = Field(default=300.0, gt=0, description="Upper bound on open_seconds as it doubles.")
    window_seconds: float = Field(default=60.0, gt=0, description="How far back rates and percentiles look.")
    minimum_calls: int = Field(default=20, ge=1, description="Calls needed in the window before a rate counts.")
    failure_rate: float = Field(
        default=0.1, gt=0, lt=1, description="Opens when the failure rate exceeds this with the confidence of z_score."
    )
    consecutive_failures: int = Field(default=5, ge=1, description="Opens after this many failures in a row.")
    rate_limit_failures: int = Field(
        default=5, ge=1, description="Opens for Retry-After after this many 429 responses with no answer in between."
    )
    slow_call_seconds: float | None = Field(
        default=None,
        gt=0,
        description="A call that takes longer (a stream: to its first chunk) is slow; if not given, no call is.",
    )
    slow_call_rate: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Opens when the share of slow calls exceeds this with the confidence of z_score.",
    )
    learning_calls: int = Field(
        default=30, ge=10, le=1000, description="Number of latencies from which the normal latency is learned."
    )
    latency_floor_seconds: float = Field(
        default=0.05,
        ge=0.001,
        description="Latencies below this are treated as equal; for the time per output token, a tenth of this.",
    )
    relearn_seconds: float = Field(
        default=600.0, gt=0, description="A latency that stays high this long is accepted as the new normal."
    )
    half_open_requests: int = Field(default=3, ge=1, description="Probes allowed in flight at once while half-open.")
    success_threshold: int = Field(default=2, ge=1, description="Successful probes needed to close the circuit.")
    probe_lease_seconds: float = Field(
        default=60.0, gt=0, description="Seconds after which the slot of a probe that never reported back is freed."
    )
    ramp_seconds: float = Field(
        default=10.0,
        ge=0,
        description="How long traffic ramps up after the circuit closes: one more concurrent call per answer.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        preset = values.get("preset", "production")
        return {**PRESETS.get(preset, {}), **values} if isinstance(preset, str) else values

    @model_validator(mode="after")
    def _cap_above_base(self) -> CircuitBreakerConfig:
        if self.max_open_seconds < self.open_seconds:
            raise ConfigError(
                f"{self.max_open_seconds:g} is less than open_seconds",
                key="max_open_seconds",
                right=f"{self.open_seconds:g} or more",
            )
        return self


class CircuitBreakerPluginConfig(CircuitBreakerConfig):
    """Settings of the plugin: those of each circuit, and how many circuits there are."""

    min_available: int = Field(
        default=1,
        ge=0,
        description="Of several targets, this many stay reachable: those whose circuits close soonest.",
    )
    per_provider: bool = Field(
        default=False,
        description="Also keep a circuit per provider, so that one outage is detected across its targets.",
    )
    max_circuits: int = Field(
        default=10_000, ge=1, description="The most circuits kept; beyond that, closed ones are forgotten."
    )
