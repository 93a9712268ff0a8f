"""The plugin alone, without a kit."""

from __future__ import annotations

import pytest
from eu_only import EuOnly

from llmkit_plugins import Call, ConfigError, Target

EU = Target(name="near", provider="p", model="m", metadata={"region": "eu"})
US = Target(name="far", provider="p", model="m", metadata={"region": "us"})
NOWHERE = Target(name="unknown", provider="p", model="m")


@pytest.mark.parametrize(("tenant", "left"), [("acme", [EU]), ("other", [US, EU, NOWHERE]), (None, [US, EU, NOWHERE])])
def test_targets_that_are_left(tenant: str | None, left: list[Target]) -> None:
    """A tenant that must stay in the region keeps its targets only, anybody else all of them."""
    plugin = EuOnly(tenants=["acme"])
    assert list(plugin.llmkit_route(Call(tenant=tenant), [US, EU, NOWHERE])) == left


def test_somebody_must_be_named() -> None:
    """Without tenants the plugin would do nothing, so it says what it needs."""
    with pytest.raises(ConfigError, match="tenants: is missing"):
        EuOnly()
