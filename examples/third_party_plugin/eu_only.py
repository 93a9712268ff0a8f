"""Sends the calls of some tenants to the targets of one region only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from llmkit_plugins import Call, Settings, Target, hookimpl


class EuOnlyConfig(Settings):
    """The settings in the table ``[eu_only]``."""

    tenants: list[str] = Field(min_length=1, description="The tenants whose calls must stay in the region.")
    region: str = Field(default="eu", description="The region, as targets have it in their metadata.")


class EuOnly:
    """Drops every target outside the region for the tenants that must stay in it."""

    Config = EuOnlyConfig
    critical = True  # a bug in here must refuse the call, not let it through

    def __init__(self, **settings: Any) -> None:
        self.config = EuOnlyConfig(**settings)

    @hookimpl
    def llmkit_route(self, call: Call, targets: Sequence[Target]) -> Sequence[Target]:
        if call.tenant not in self.config.tenants:
            return targets
        return [target for target in targets if target.metadata.get("region") == self.config.region]
