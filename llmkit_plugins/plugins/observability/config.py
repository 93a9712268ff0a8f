"""What can be set."""

from __future__ import annotations

from pydantic import Field

from llmkit_plugins.settings import Settings


class ObservabilityConfig(Settings):
    """Settings of the observability plugin."""

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
