"""A proxy with the two lines of configuration and nothing else, from its start to its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PROMPT = [{"role": "user", "content": "hi there"}]
TWO_LINES = {"litellm_settings": {"callbacks": ["llmkit_litellm.proxy.handler"]}}


@pytest.fixture
def collector() -> Iterator[ThreadingHTTPServer]:
    """An OTLP receiver; its ``spans`` are what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            server.spans += [
                span for sent in request.resource_spans for scope in sent.scope_spans for span in scope.spans
            ]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.spans = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


async def test_two_lines(start, first, deployment, free_port, collector):
    """It serves; LiteLLM itself would let a client's call go on when he leaves; a clean end closes the kit."""
    settings = f"""
plugins = ["outer", "observability", "inner"]

[observability]
metrics_port = {free_port}
otlp_endpoint = "http://127.0.0.1:{collector.server_port}"
otlp_protocol = "http"
"""
    config = {"model_list": [deployment("chat", "a", first), deployment("slow", "a", first)], **TWO_LINES}
    proxy = await asyncio.to_thread(start, config, settings)
    async with proxy.aclient(proxy.master_key) as client:
        traced = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
        answer = await client.chat.completions.create(model="chat", messages=PROMPT, extra_headers=traced)
        assert answer.choices[0].message.content == "one two three"
        first.slow_down(first_token_seconds=0.5)
        task = asyncio.create_task(client.chat.completions.create(model="slow", messages=PROMPT))
        await asyncio.to_thread(first.wait_until, lambda stats: stats.in_flight == 1, 60.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await asyncio.to_thread(proxy.hears, "slow", {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1})
    async with httpx.AsyncClient() as client:
        metrics = await client.get(f"http://127.0.0.1:{free_port}/metrics")
    assert 'llmkit_request_tokens_total{direction="output"' in metrics.text

    await asyncio.to_thread(proxy.stop)
    assert [line["who"] for line in proxy.lines("journal", what="closed")] == ["inner", "outer"]
    assert "Traceback" not in proxy.log
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == "1" * 32}
    assert spans["llmkit chat"].parent_span_id.hex() == "2" * 16
    assert spans["chat gpt-4o-mini"].parent_span_id == spans["llmkit chat"].span_id


def test_wrong_settings(launch, first, deployment):
    """It does not start, and the last it says is what is wrong, by file and key."""
    config = {"model_list": [deployment("chat", "a", first)], **TWO_LINES}
    settings = 'plugins = ["rate_limiter"]\n[rate_limiter]\nlimits = [{ per = ["usr"], requests = "1/min" }]\n'
    proxy = launch(config, settings)
    assert proxy.process.wait(60.0) != 0
    said = proxy.log.rpartition("\nllmkit_plugins.")[2]
    assert "ConfigError: llmkit.toml: rate_limiter.limits[0].per" in said
    assert "user" in said
    assert said.count("\n") < 5
