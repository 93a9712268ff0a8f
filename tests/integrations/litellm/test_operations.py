"""Text completions, embeddings and the responses API go through the kit as chats do."""

from __future__ import annotations

import asyncio
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import litellm
import openai
import pytest
from litellm.integrations.custom_logger import CustomLogger
from llmkit_litellm import LLMKitRouter, install

from llmkit_plugins import MultiplexerPlugin, RateLimited, Usage
from llmkit_plugins.testing.fake_provider import Fault

OK = {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1}
FAILOVER = {"request": 1, "attempt": 2, "attempt error": 1, "attempt ok": 1, "request ok": 1}

# LiteLLM's sync Router sends a text completion to the model that its group is called
MODELS = {
    "text_completion": "text-completion-openai/gpt-3.5-turbo-instruct",
    "embedding": "openai/text-embedding-3-small",
    "responses": "custom_openai/gpt-4o-mini",  # has no responses API: LiteLLM asks for a chat and translates
}
WAYS = [(function, how) for function in MODELS for how in ("sync", "async")]
STREAMS = [(function, f"{how} stream") for function in ("text_completion", "responses") for how in ("sync", "async")]
WORDS = {"text_completion": "text_completion", "embedding": "embeddings", "responses": "responses"}


class Asking:
    """One entrance: ``await asking(function, how)`` is what came back, a list of chunks for a stream."""

    def __init__(self, kind, kit, models):
        self.kind, self.models = kind, models
        self.entrance = litellm
        if kind == "router":
            self.entrance = LLMKitRouter(model_list=models, kit=kit, retry_after=0, num_retries=1)
        elif kind == "installed":
            self.entrance = litellm.Router(model_list=models, retry_after=0, num_retries=1)
        if kind != "router":
            install(kit)

    async def __call__(self, function, how, **given):
        given = {**self._arguments(function), **given}
        if how == "sync":
            return await asyncio.to_thread(getattr(self.entrance, function), **given)
        if how == "async":
            return await getattr(self.entrance, f"a{function}")(**given)
        if how == "sync stream":
            return await asyncio.to_thread(lambda: list(getattr(self.entrance, function)(stream=True, **given)))
        stream = await getattr(self.entrance, f"a{function}")(stream=True, **given)
        return [chunk async for chunk in stream]

    def _arguments(self, function):
        asked = {"prompt": "hi there"} if function == "text_completion" else {"input": "hi there"}
        if self.kind != "sdk":
            return {"model": MODELS[function], **asked}
        deployment = next(model for model in self.models if model["model_name"] == MODELS[function])
        return {**deployment["litellm_params"], "max_retries": 0, **asked}


@pytest.fixture(params=["sdk", "router", "installed"])
def asking(request, kit, first, second):
    """Each entrance, with two deployments of each model."""
    models = [
        {
            "model_name": model,
            "litellm_params": {"model": model, "api_base": provider.url, "api_key": "k"},
            "model_info": {"id": f"{name}-{function}"},
        }
        for function, model in MODELS.items()
        for name, provider in (("a", first), ("b", second))
    ]
    return Asking(request.param, kit, models)


def text_of(answer):
    """What was said, in whatever form."""
    if isinstance(answer, list):
        return "".join(_piece(chunk) for chunk in answer)
    if isinstance(answer, litellm.EmbeddingResponse):
        return len(answer.data)
    if hasattr(answer, "output"):
        return answer.output[0].content[0].text
    return answer.choices[0].text


def _piece(chunk):
    if hasattr(chunk, "choices"):
        return chunk.choices[0].text or ""
    return chunk.delta if chunk.type == "response.output_text.delta" else ""


@pytest.mark.parametrize(("function", "how"), WAYS + STREAMS)
async def test_ok(asking, function, how, heard, recorder):
    """The plugins hear of the call, of what kind it is, of its target and of what it used."""
    assert text_of(await asking(function, how)) == (1 if function == "embedding" else "one two three")
    assert heard() == OK
    call, attempt = recorder.calls[0], recorder.attempts[0]
    assert (call.operation, call.messages, call.stream) == (WORDS[function], "hi there", how.endswith("stream"))
    assert (attempt.first_chunk is not None) == call.stream
    if asking.kind != "sdk":
        assert attempt.target.name == f"a-{function}"
    if function == "embedding":
        assert attempt.usage == Usage(input_tokens=2)
    else:
        assert attempt.finish_reason == "stop"
    if function != "text_completion" or not call.stream:  # of a text stream LiteLLM tells no usage
        assert attempt.usage.input_tokens == 2
    if function == "embedding" or (how in ("sync", "async") and function == "text_completion"):
        assert attempt.cost > 0


@pytest.mark.parametrize(("function", "how"), WAYS + STREAMS)
async def test_a_spent_limit(asking, function, how, heard, kit, plugin, first, second):
    """Who is over his limit is refused as in a chat, and nobody is asked."""

    def refuse(call):
        raise RateLimited("per user", "u", 7.2)

    kit.register(plugin(pre_request=refuse))
    with pytest.raises(litellm.RateLimitError) as raised:
        await asking(function, how)
    assert raised.value.headers == {"retry-after": "8"}
    assert heard() == {"request": 1, "request refused": 1}
    assert first.stats.requests == second.stats.requests == 0


@pytest.mark.parametrize(("function", "how"), WAYS)
async def test_headers_that_a_plugin_wants(asking, function, how, kit, plugin, first):
    """A ``traceparent`` is sent with these too."""
    kit.register(plugin(pre_attempt=lambda call, attempt: setattr(attempt, "request_headers", {"traceparent": "t"})))
    await asking(function, how)
    assert first.requests[0].headers["traceparent"] == "t"


def _fault(function):
    """LiteLLM lets OpenAI's client retry embeddings by itself, but not this."""
    return Fault("auth" if function == "embedding" else "overloaded")


RETRIED = [
    ("text_completion", "async"),
    ("text_completion", "async stream"),
    ("embedding", "sync"),
    ("embedding", "async"),
    ("responses", "async"),
    ("responses", "async stream"),
]
"""What LiteLLM's Router retries: its sync text completions and responses it does not."""


@pytest.mark.parametrize(("function", "how"), RETRIED)
@pytest.mark.parametrize("asking", ["router", "installed"], indirect=True)
async def test_failover(asking, function, how, heard, recorder, first):
    """Where the first deployment fails, the second answers."""
    first.fail_with(_fault(function))
    assert text_of(await asking(function, how)) == (1 if function == "embedding" else "four five")
    assert heard() == FAILOVER
    assert [attempt.target.name[0] for attempt in recorder.attempts] == ["a", "b"]


@pytest.mark.parametrize(("function", "how"), WAYS + STREAMS)
async def test_all_down(asking, function, how, recorder, first, second):
    """Where all fail, the caller gets the provider's error."""
    for provider in (first, second):
        provider.fail_with(_fault(function))
    with pytest.raises(openai.APIError):
        await asking(function, how)
    assert recorder.counts["request error"] == 1
    assert {attempt.outcome for attempt in recorder.attempts} == {"error"}
    assert first.stats.requests + second.stats.requests == len(recorder.attempts)


SHARED = [way for way in WAYS + STREAMS if way[0] != "responses"]


class Costs(CustomLogger):
    """A user's own callback."""

    def __init__(self):
        super().__init__()
        self.hits = []

    def log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.hits.append(bool(kwargs.get("cache_hit")))

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.log_success_event(kwargs, response_obj, start_time, end_time)


@pytest.mark.parametrize(("function", "how"), SHARED)
async def test_identical_ones_share(asking, function, how, kit, heard, first):
    """Identical text completions and embeddings are one upstream request; each caller has an answer and an event."""
    kit.register(MultiplexerPlugin())
    costs = Costs()
    litellm.callbacks.append(costs)
    first.slow_down(first_token_seconds=0.3)
    answers = await asyncio.gather(*(asking(function, how) for _ in range(4)))
    assert {text_of(answer) for answer in answers} == {1 if function == "embedding" else "one two three"}
    assert first.stats.requests == 1
    assert heard() == {"request": 4, "attempt": 1, "attempt ok": 1, "request ok": 1, "request shared": 3}
    for _ in range(200):
        if len(costs.hits) == 4:
            break
        await asyncio.sleep(0.01)
    assert sorted(costs.hits) == [False, True, True, True]


async def test_responses_are_not_shared(asking, kit, first, heard):
    """An answer of the responses API is an object at the provider, which its caller may continue or delete."""
    kit.register(MultiplexerPlugin())
    first.slow_down(first_token_seconds=0.1)
    await asyncio.gather(*(asking("responses", "async") for _ in range(2)))
    assert first.stats.requests == 2
    assert heard() == {"request": 2, "attempt": 2, "attempt ok": 2, "request ok": 2}


@pytest.mark.parametrize(("function", "how"), STREAMS)
async def test_abandoned(asking, function, how, heard, first):
    """A stream that is closed half-way is cancelled, and leaves the provider."""
    first.slow_down(per_token_seconds=60.0)
    given = {**asking._arguments(function), "stream": True}
    if how == "sync stream":
        stream = await asyncio.to_thread(getattr(asking.entrance, function), **given)
        await asyncio.to_thread(next, stream)
        await asyncio.to_thread(stream.close)
    else:
        stream = await getattr(asking.entrance, f"a{function}")(**given)
        await anext(stream)
        await stream.aclose()
    assert heard() == {"request": 1, "attempt": 1, "attempt cancelled": 1, "request cancelled": 1}
    if function == "responses":  # LiteLLM's text streams do not close what they read from
        await asyncio.to_thread(first.wait_until, lambda stats: stats.clients_left == 1)


# -- a provider that has the responses API --------------------------------------------------------------------------

ANSWER = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "gpt-4o-mini",
    "output": [
        {
            "type": "message",
            "id": "m",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "one two three", "annotations": []}],
        }
    ],
    "usage": {
        "input_tokens": 2,
        "output_tokens": 3,
        "total_tokens": 5,
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens_details": {"reasoning_tokens": 2},
    },
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}


class Native(BaseHTTPRequestHandler):
    """Answers a responses request, whole or as events."""

    end = "response.completed"
    last = ANSWER

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = self._events() if asked.get("stream") else json.dumps(self.last).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if asked.get("stream") else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _events(self):
        begun = {**ANSWER, "status": "in_progress", "output": [], "usage": None}
        words = [
            {"item_id": "m", "output_index": 0, "content_index": 0, "delta": word} for word in ("one", " two three")
        ]
        events = [
            ("response.created", {"response": begun}),
            *(("response.output_text.delta", word) for word in words),
            (self.end, {"response": self.last}),
        ]
        numbered = [{"type": kind, "sequence_number": at, **event} for at, (kind, event) in enumerate(events)]
        return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in numbered)

    def log_message(self, *_):
        """Nobody needs it."""


@pytest.fixture
def native():
    """Its base URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Native) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


# LiteLLM writes a dict where its own model has a class
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize("how", ["sync", "async", "sync stream", "async stream"])
@pytest.mark.parametrize("kind", ["sdk", "router", "installed"])
async def test_a_provider_with_the_responses_api(kit, native, kind, how, heard, recorder, monkeypatch):
    """Usage, cost, model and finish reason come from the provider's own words."""
    model = {"model": "openai/gpt-4o-mini", "api_base": native, "api_key": "k"}
    monkeypatch.setitem(MODELS, "responses", "group")
    asking = Asking(kind, kit, [{"model_name": "group", "litellm_params": model, "model_info": {"id": "a"}}])
    assert text_of(await asking("responses", how)) == "one two three"
    assert heard() == OK
    (attempt,) = recorder.attempts
    assert attempt.usage == Usage(2, 3, 1, 2)
    assert attempt.cost == pytest.approx((0.15 * 1 + 0.075 * 1 + 0.60 * 3) / 1e6)
    assert (attempt.model, attempt.finish_reason) == ("gpt-4o-mini", "stop")
