"""The settings of the observability plugin."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from llmkit_plugins.errors import ConfigError
from llmkit_plugins.settings import Settings, shown


class ObservabilityConfig(Settings):
    """Settings of the observability plugin."""

    metrics: tuple[Literal["prometheus", "opentelemetry"], ...] = Field(
        default=("prometheus",), description="Where metrics go: to either, to both, or (an empty list) nowhere."
    )
    own_registry: bool = Field(
        default=False,
        description="Keep the metrics out of the process's default Prometheus registry, where they otherwise "
        "appear beside the application's own.",
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Serve /metrics over HTTP on this port (0: any free one); not served if not given.",
    )
    metrics_address: str = Field(default="127.0.0.1", description="The address to serve /metrics on.")
    max_label_sets: int = Field(
        default=500,
        ge=1,
        description="How many provider and model pairs (and how many limits, targets, kinds of error) get series "
        "of their own; later ones are counted under __overflow__.",
    )
    traces: bool = Field(default=True, description="Record spans, if the process has an OpenTelemetry SDK set up.")
    trace_ratio: float = Field(
        default=1.0,
        ge=0.0,
        le=1.0,
        description="The share of calls to trace, among those not yet part of a trace; the others follow theirs.",
    )
    propagate_trace: bool = Field(
        default=False, description="Offer backends a traceparent header to send to the provider."
    )
    content: bool = Field(default=False, description="Record prompts and answers in spans.")
    content_characters: int = Field(
        default=8192, ge=1, description="The most that is recorded of a prompt, and of an answer."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Send spans (and metrics that go to opentelemetry) to this OTLP receiver, through providers "
        "of the plugin's own; if not given, through those of the process.",
    )
    otlp_protocol: Literal["grpc", "http"] = Field(default="grpc", description="The protocol of the OTLP receiver.")
    time_hooks_every: int = Field(
        default=100, ge=0, description="Time the plugins' hooks in one call out of this many; 0 disables it."
    )

    @field_validator("otlp_endpoint", mode="before")
    @classmethod
    def _a_url(cls, value: object) -> object:
        if isinstance(value, str) and not value.startswith(("http://", "https://")):
            raise ConfigError(f"{shown(value)} is not valid", right="http://host:4317 or https://host:4317")
        return value
