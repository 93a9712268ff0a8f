"""What the proxy's config names: a kit of the settings in ``LLMKIT_CONFIG``, installed when it is asked for."""

from __future__ import annotations

from pathlib import Path

import litellm
import pytest
from litellm.proxy.types_utils.utils import get_instance_fn
from llmkit_litellm import install, proxy, uninstall

from llmkit_plugins import Backend, Call, ConfigError, LLMKit, LLMKitError
from llmkit_plugins.testing import FakeProvider

PROMPT = [{"role": "user", "content": "hi"}]


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
        litellm.completion(messages=PROMPT, **call)
        with pytest.raises(litellm.RateLimitError):
            litellm.completion(messages=PROMPT, **call)
        assert provider.stats.requests == 1


OWN = [
    {"litellm_metadata": {"user_api_key_hash": "litellm-internal-health-check"}},
    {"model_info": {"id": "a"}},
]


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_what_is_litellms_own(own, mode, recorder) -> None:
    """A question after a deployment's health, and what a Router sends for a call that did not come through a kit, are
    none of the plugins' business: refusing them would take a healthy deployment out of service."""
    with LLMKit([recorder]) as kit, FakeProvider() as provider:
        install(kit)
        call = {"model": "openai/m", "api_base": provider.url, "api_key": "any", "messages": PROMPT, **own}
        if mode == "sync":
            litellm.completion(**call)
        else:
            await litellm.acompletion(**call)
        assert provider.stats.requests == 1
    assert recorder.counts == {}


async def test_a_closed_handler_is_out_of_the_way(recorder) -> None:
    """When the proxy has stopped, the kit is closed, and what still comes is sent without it."""
    handler = proxy.LLMKitProxyHandler(LLMKit([recorder]))
    install(handler.kit)
    await handler.close()
    with pytest.raises(LLMKitError, match="closed"):
        handler.kit.call(Call(messages=PROMPT), Backend())
    with FakeProvider() as provider:
        await litellm.acompletion("openai/m", PROMPT, api_base=provider.url, api_key="any")
    assert recorder.counts == {}


def test_no_settings_stop_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file that is not there."""
    monkeypatch.setenv("LLMKIT_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        get_instance_fn("llmkit_litellm.proxy.handler")


def test_wrong_settings_stop_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file and the key."""
    file = tmp_path / "llmkit.toml"
    file.write_text('plugins = ["rate_limitr"]\n')
    monkeypatch.setenv("LLMKIT_CONFIG", str(file))
    with pytest.raises(ConfigError, match=r"llmkit\.toml: plugins.*rate_limiter"):
        get_instance_fn("llmkit_litellm.proxy.handler")
