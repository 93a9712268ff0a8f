"""The JSON schema that editors get."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from pydantic import Field

from llmkit_plugins import cli
from llmkit_plugins.settings import Settings


class Limit(Settings):
    """Not the limit of the rate limiter, but of the same name."""

    callback: Callable[[], None] | None = Field(default=None, description="Only Python can give it.")
    top: int = 1


class OtherConfig(Settings):
    limit: Limit = Limit()


@pytest.fixture
def schema(install: Callable[..., Any], plugins: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What ``llmkit schema`` prints."""
    install("other", type("Other", (plugins.Plain,), {"Config": OtherConfig}))
    assert cli.main(["schema"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(printed)
    return printed


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"plugins": ["router"], "targets": [{"name": "a", "provider": "p", "model": "m", "input_price": 0.1}]},
        {"lease_seconds": "${SECONDS}", "on_plugin_error": "${WHAT}"},
        {"rate_limiter": {"limits": [{"per": ["user"], "requests": "1/s"}], "max_wait_seconds": 2}},
        {"other": {"limit": {"top": 2}}},
        {"plain": {}},
    ],
)
def test_what_is_right_is_valid(schema: dict[str, Any], settings: dict[str, Any]) -> None:
    """Right settings are valid, references to the environment too."""
    jsonschema.validate(settings, schema)


@pytest.mark.parametrize(
    "settings",
    [
        {"lease_second": 1},
        {"lease_seconds": "1"},
        {"lease_seconds": 0},
        {"targets": [{"name": "a"}]},
        {"rate_limiter": {"limits": [{"top": 2}]}},
        {"other": {"limit": {"per": []}}},
        {"plain": {"colour": "blue"}},
        {"shaky": {}},
        {"unknown": {}},
    ],
)
def test_what_is_wrong_is_not(schema: dict[str, Any], settings: dict[str, Any]) -> None:
    """Wrong settings are not: unknown keys, wrong types and values, tables of plugins that are not there."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(settings, schema)


def test_every_setting_is_described(schema: dict[str, Any]) -> None:
    """An editor can show what each of the kit's own settings is."""
    own = ["plugins", "targets", "on_plugin_error", "lease_seconds"]
    assert all(schema["properties"][name]["description"] for name in own)
    assert all(field["description"] for field in schema["$defs"]["TargetSettings"]["properties"].values())


def test_the_real_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    """The schema of what is really installed is a schema."""
    assert cli.main(["schema"]) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))
