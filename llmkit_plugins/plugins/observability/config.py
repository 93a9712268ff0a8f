"""What can be set."""

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
        description="Keep the metrics apart from the process's default Prometheus registry, where they else appear "
        "beside the application's own.",
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Serve /metrics over HTTP on this port (0: any free one); not served if unset.",
    )
    metrics_address: str = Field(default="127.0.0.1", description="The address to serve /metrics on.")
    max_label_sets: int = Field(
        default=500,
        ge=1,
        description="How many pairs of provider and model (and how many limits, targets, kinds of error) have metrics "
        "of their own; what comes later is counted under __overflow__.",
    )
    traces: bool = Field(default=True, description="Record spans, where the process has an OpenTelemetry SDK set up.")
    trace_ratio: float = Field(
        default=1.0,
        ge=0.0,
        le=1.0,
        description="The share of calls that are traced, of those that are in no trace yet; others follow theirs.",
    )
    propagate_trace: bool = Field(
        default=False, description="Offer backends a traceparent header to send to the provider."
    )
    content: bool = Field(default=False, description="Record prompts and answers in spans.")
    content_characters: int = Field(
        default=8192, ge=1, description="How much of a prompt, and of an answer, is recorded at most."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Send spans (and metrics, where they go to opentelemetry) to this OTLP receiver, by providers of "
        "the plugin's own; unset: by those of the process.",
    )
    otlp_protocol: Literal["grpc", "http"] = Field(default="grpc", description="How to speak to the OTLP receiver.")
    time_hooks_every: int = Field(
        default=100, ge=0, description="Time the plugins' hooks in one call of so many; 0: in none."
    )

    @field_validator("otlp_endpoint", mode="before")
    @classmethod
    def _a_url(cls, value: object) -> object:
        if isinstance(value, str) and not value.startswith(("http://", "https://")):
            raise ConfigError(f"{shown(value)} is not valid", right="http://host:4317 or https://host:4317")
        return value
