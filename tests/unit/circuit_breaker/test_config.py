"""Settings, presets, and what is refused."""

from __future__ import annotations

import pytest

from llmkit_plugins import ConfigError
from llmkit_plugins.plugins.circuit_breaker import CircuitBreaker, CircuitBreakerConfig


@pytest.mark.parametrize(
    ("preset", "z_score", "open_seconds"),
    [("aggressive", 1.5, 10.0), ("production", 2.5, 60.0), ("conservative", 3.0, 120.0)],
)
def test_presets(preset, z_score, open_seconds):
    """Each preset has its z-score and open time, by method, by name, and under what is given besides."""
    by_method = getattr(CircuitBreaker, preset)("openai")
    assert by_method.name == "openai"
    assert (by_method.config.z_score, by_method.config.open_seconds) == (z_score, open_seconds)
    assert CircuitBreaker("openai", preset=preset).config == by_method.config
    own = getattr(CircuitBreaker, preset)("openai", open_seconds=7.0)
    assert (own.config.z_score, own.config.open_seconds) == (z_score, 7.0)


def test_the_default_is_production():
    """Without any setting a breaker is the production preset."""
    assert CircuitBreaker("x").config == CircuitBreaker.production("x").config
    assert (CircuitBreakerConfig().z_score, CircuitBreakerConfig().open_seconds) == (2.5, 60.0)


def test_a_config_can_be_given_whole():
    """A breaker takes a ready config, and refuses settings beside it."""
    config = CircuitBreakerConfig(preset="aggressive")
    assert CircuitBreaker("x", config).config == config
    with pytest.raises(ConfigError, match="z_score"):
        CircuitBreaker("x", config, z_score=2.0)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"z_scor": 2.0}, "z_scor"),
        ({"z_score": 0}, "z_score"),
        ({"open_seconds": -1}, "open_seconds"),
        ({"open_seconds": float("inf")}, "open_seconds"),
        ({"open_seconds": 700.0}, "max_open_seconds"),
        ({"failure_rate": 1.5}, "failure_rate"),
        ({"half_open_requests": 0}, "half_open_requests"),
        ({"preset": "brave"}, "preset"),
        ({"preset": ["production"]}, "preset"),
    ],
)
def test_wrong_settings_are_refused(settings, key):
    """A wrong or unknown setting is an error that names it and what would be right."""
    with pytest.raises(ConfigError) as refused:
        CircuitBreaker("x", **settings)
    assert refused.value.key == key
    assert refused.value.right


def test_settings_are_frozen():
    """The settings of a breaker cannot be changed behind its back."""
    with pytest.raises((ConfigError, ValueError), match="frozen"):
        CircuitBreaker("x").config.z_score = 9.0
