"""What the proxy's config names: a kit of the settings in ``LLMKIT_CONFIG``, installed when it is asked for."""

from __future__ import annotations

from pathlib import Path

import litellm
import pytest
from litellm.proxy.types_utils.utils import get_instance_fn
from llmkit_litellm import proxy, uninstall

from llmkit_plugins import ConfigError
from llmkit_plugins.testing import FakeProvider


@pytest.fixture(autouse=True)
def _forgotten():
    proxy._handler.cache_clear()
    yield
    proxy._handler.cache_clear()
    uninstall()


def test_the_handler_installs_the_kit_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the proxy looks it up; once it has, calls are limited as the file says, and it is the same one ever after."""
    file = tmp_path / "llmkit.toml"
    limits = 'limits = [{ per = ["user"], requests = "1/min" }]'
    file.write_text(f'plugins = ["rate_limiter"]\n[rate_limiter]\n{limits}\n')
    monkeypatch.setenv("LLMKIT_CONFIG", str(file))
    handler = get_instance_fn("llmkit_litellm.proxy.handler")
    assert get_instance_fn("llmkit_litellm.proxy.handler") is handler
    with FakeProvider() as provider:
        call = {"model": "openai/m", "api_base": provider.url, "api_key": "any", "user": "ann"}
        litellm.completion(messages=[{"role": "user", "content": "hi"}], **call)
        with pytest.raises(litellm.RateLimitError):
            litellm.completion(messages=[{"role": "user", "content": "hi"}], **call)
        assert provider.stats.requests == 1


def test_wrong_settings_stop_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file and the key."""
    file = tmp_path / "llmkit.toml"
    file.write_text('plugins = ["rate_limitr"]\n')
    monkeypatch.setenv("LLMKIT_CONFIG", str(file))
    with pytest.raises(ConfigError, match=r"llmkit\.toml: plugins.*rate_limiter"):
        get_instance_fn("llmkit_litellm.proxy.handler")
