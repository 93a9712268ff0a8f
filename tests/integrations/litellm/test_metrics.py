"""Under LiteLLM's proxy the metrics are on the proxy's own ``/metrics``, beside LiteLLM's."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import litellm
import pytest
from litellm.integrations.prometheus import PrometheusLogger
from llmkit_litellm import install
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from llmkit_plugins import LLMKit
from llmkit_plugins.plugins.observability import ObservabilityPlugin
from llmkit_plugins.plugins.observability.exposition import metrics_on

endpoint = pytest.importorskip("litellm.integrations.prometheus_metrics_endpoint")


@pytest.fixture
def proxys_own() -> Iterator[PrometheusLogger]:
    """What ``callbacks: ["prometheus"]`` makes; it is gone from the process's registry afterwards."""
    metrics_on(REGISTRY)  # ours stay for good
    before = set(REGISTRY._collector_to_names)
    yield PrometheusLogger()
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)


async def test_the_proxys_metrics_have_ours(proxys_own, first):
    """As the proxy serves them: names do not clash, and a scrape that asks for one of ours gets it alone."""
    with LLMKit([ObservabilityPlugin()]) as kit:
        install(kit)
        await litellm.acompletion(
            f"openai/metrics-of-{first.url}", [{"role": "user", "content": "hi"}], api_base=first.url, api_key="k"
        )
        app = httpx.ASGITransport(endpoint.make_metrics_asgi_app(REGISTRY))
        async with httpx.AsyncClient(transport=app, base_url="http://proxy") as client:
            everything = (await client.get("/metrics")).text
            asked = (await client.get("/metrics", params={"name[]": "llmkit_request_tokens_total"})).text
    families = {family.name: family for family in text_string_to_metric_families(everything)}
    assert any(name.startswith("litellm_") for name in families)
    ours = [s for s in families["llmkit_request_tokens"].samples if s.labels["model"] == f"metrics-of-{first.url}"]
    assert {s.labels["direction"]: s.value for s in ours} == {
        "input": first.stats.prompt_tokens,
        "output": first.stats.completion_tokens,
    }
    assert {family.name for family in text_string_to_metric_families(asked)} == {"llmkit_request_tokens"}
