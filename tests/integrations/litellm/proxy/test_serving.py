"""What a platform team relies on: who a caller is, circuits, metrics, traces, and that a bug of ours is not theirs."""

from __future__ import annotations

import httpx
import openai
import pytest

from llmkit_plugins.testing.fake_provider import Fault

PROMPT = [{"role": "user", "content": "hi there"}]


def ask(client, model, **given):
    """The text of a whole answer."""
    return client.chat.completions.create(model=model, messages=PROMPT, **given).choices[0].message.content


def refused(client, model, **given) -> httpx.Response:
    """The 429 that the client gets."""
    with pytest.raises(openai.RateLimitError) as raised:
        ask(client, model, **given)
    assert int(raised.value.response.headers["retry-after"]) > 3600
    return raised.value.response


# -- who a caller is ------------------------------------------------------------------------------------------------


def test_the_callers_of_a_key(proxy):
    """User and tenant are those of the key; the request's ``user`` says which of its users asks."""
    ask(proxy.client("sk-ann-team-"), "callers")
    ask(proxy.client("sk-ann-team-"), "callers", user="bob")
    ask(proxy.client("sk-ann--"), "callers")
    told = [
        (line["user"], line["tenant"]) for line in proxy.lines("journal", who="outer", model="callers", what="request")
    ]
    assert told == [("ann", "team"), ("bob", "team"), ("ann", None)]


def test_a_keys_user_over_the_limit(proxy):
    """The limit is his on all his keys, and nobody else's."""
    ask(proxy.client("sk-limited1--"), "keys")
    refused(proxy.client("sk-limited1-team-"), "keys")
    ask(proxy.client("sk-limited2--"), "keys")


def test_a_team_over_the_limit(proxy):
    """The limit is the team's, whoever asks; metadata of a client's own do not make another team of it."""
    ask(proxy.client("sk-ann-small-"), "keys")
    refused(proxy.client("sk-bob-small-"), "keys")
    own = {"tenant": "other", "user_api_key_team_id": "other"}
    refused(proxy.client("sk-bob-small-"), "keys", extra_body={"metadata": own})
    ask(proxy.client("sk-bob-other-"), "keys")


def test_a_key_over_the_limit(proxy):
    """A limit may be each key's: the proxy's metadata tells them apart."""
    ask(proxy.client("sk-per_key-x-"), "keys")
    refused(proxy.client("sk-per_key-x-"), "keys")
    ask(proxy.client("sk-per_key-y-"), "keys")


def test_refusals_give_places_back(proxy, mode):
    """A key that may make one request at once is refused by our limit again and again, then serves another user."""
    client, user = proxy.client("sk-ann--1"), f"limited-places-{mode}"

    def told(**given) -> str:
        """The answer, or why there is none; LiteLLM gives places back in the background, so that it may refuse too."""
        try:
            answer = client.chat.completions.create(model="free", messages=PROMPT, stream=mode == "stream", **given)
            return "an answer" if mode == "whole" or list(answer) else ""
        except openai.RateLimitError as error:
            return str(error)

    proxy.wait(lambda: told(user=user) == "an answer")
    for _ in range(4):
        proxy.wait(lambda: "requests 1/day per user" in told(user=user))
    proxy.wait(lambda: told() == "an answer")


# -- circuits -------------------------------------------------------------------------------------------------------


def test_a_dying_deployment_is_left_and_found_again(proxy, first, second):
    """No client notices; once its circuit has opened it is not asked, and when it has healed it is the favourite."""
    client = proxy.client()
    first.fail_with(Fault("overloaded"))
    left = 0
    for _ in range(100):
        asked = len(first.requests)
        assert ask(client, "dying") == "four five"
        left = left + 1 if len(first.requests) == asked else 0
        if left == 3:
            break
    assert left == 3
    first.heal()
    proxy.wait(lambda: ask(client, "dying") == "one two three")


# -- what can be seen -----------------------------------------------------------------------------------------------


def test_metrics(proxy):
    """Ours are beside LiteLLM's own at /metrics."""
    ask(proxy.client(), "keys")
    headers = {"authorization": "Bearer sk-ann--"}
    metrics = httpx.get(f"{proxy.url}/metrics", headers=headers, follow_redirects=True)
    assert metrics.is_success
    families = {line.split()[2] for line in metrics.text.splitlines() if line.startswith("# TYPE")}
    assert any(name.startswith("litellm_") for name in families)
    assert {
        "llmkit_request_duration_seconds",
        "llmkit_request_tokens_total",
        "llmkit_request_active",
        "llmkit_request_cost_total",
    } <= families
    assert 'provider="openai"' in metrics.text


def test_a_trace_of_the_client_is_joined(proxy, mode):
    """The attempt's span is below the request's, and that one below the client's (FastAPI's may be in between)."""
    trace_id, span_id = ("1" if mode == "whole" else "2") * 32, "b7ad6b7169203331"
    answer = proxy.client().chat.completions.create(
        model="traced",
        messages=PROMPT,
        stream=mode == "stream",
        extra_headers={"traceparent": f"00-{trace_id}-{span_id}-01"},
    )
    if mode == "stream":
        list(answer)
    proxy.wait(lambda: f"0x{span_id}" in above(proxy, trace_id, "llmkit chat"))
    request, *_ = above(proxy, trace_id, "chat gpt-4o-mini")
    assert above(proxy, trace_id, "llmkit chat") == above(proxy, trace_id, "chat gpt-4o-mini")[1:]
    assert proxy.lines("spans", name="llmkit chat")[-1]["context"]["span_id"] == request


def above(proxy, trace_id, name) -> list[str]:
    """The ids of the spans that the one called *name* is in, from the inside out."""
    spans = [span for span in proxy.lines("spans") if span["context"]["trace_id"] == f"0x{trace_id}"]
    parents = {span["context"]["span_id"]: span["parent_id"] for span in spans}
    found = [span["parent_id"] for span in spans if span["name"] == name]
    while found and found[-1] in parents:
        found.append(parents[found[-1]])
    return found


# -- what must not happen -------------------------------------------------------------------------------------------


def test_a_plugin_with_a_bug(proxy, mode):
    """The call goes on, and the log names the plugin and the hook, with the traceback."""
    client = proxy.client()
    for _ in range(2):
        answer = client.chat.completions.create(model="buggy", messages=PROMPT, stream=mode == "stream")
        if mode == "stream":
            assert "".join(chunk.choices[0].delta.content or "" for chunk in answer) == "one two three"
        else:
            assert answer.choices[0].message.content == "one two three"
    for hook in ("pre_request", "pre_attempt", "post_attempt", "post_response"):
        proxy.wait(lambda hook=hook: f"buggy.llmkit_{hook}" in proxy.log)
    assert "RuntimeError: a bug" in proxy.log


def test_health_checks_are_not_ours(proxy, first, second):
    """Whether a deployment is healthy is for LiteLLM to ask: no plugin counts or refuses that."""
    begun = len(proxy.lines("journal"))
    headers = {"authorization": "Bearer sk-ann--"}
    health = httpx.get(f"{proxy.url}/health", params={"model": "keys"}, headers=headers, timeout=60.0).json()
    assert (health["healthy_count"], health["unhealthy_count"]) == (2, 0)
    assert len(first.requests) == len(second.requests) == 1
    assert len(proxy.lines("journal")) == begun


# -- the other endpoints --------------------------------------------------------------------------------------------


def test_text_completions_and_embeddings(proxy):
    """They go through the plugins as chats do."""
    client = proxy.client()
    assert client.completions.create(model="texts", prompt="hi there").choices[0].text == "one two three"
    assert client.embeddings.create(model="texts", input="hi there", encoding_format="float").data
    proxy.hears("texts", {"request": 2, "attempt": 2, "attempt ok": 2, "request ok": 2})
    told = [line["operation"] for line in proxy.lines("journal", who="outer", model="texts", what="request")]
    assert told == ["text_completion", "embeddings"]


def test_responses(proxy, first):
    """/v1/responses goes through the plugins, and metadata of a client's own do not make another user of it."""
    answer = proxy.client().responses.create(model="responses", input="hi there", user="limited-responses")
    assert answer.output_text == "one two three"
    own = {"user_api_key_end_user_id": "another", "user_api_key_hash": "another"}
    with pytest.raises(openai.RateLimitError) as raised:
        proxy.client().responses.create(model="responses", input="hi there", user="limited-responses", metadata=own)
    assert raised.value.response.headers["retry-after"]
    assert len(first.requests) == 1
    heard = {"request": 2, "attempt": 1, "attempt ok": 1, "request ok": 1, "request refused": 1}
    proxy.hears("responses", heard)


def test_messages_are_not_covered(proxy, first):
    """/v1/messages works as without the plugins, which hear nothing of it."""
    begun = len(proxy.lines("journal"))
    body = {"model": "messages", "max_tokens": 10, "messages": PROMPT, "metadata": {"user_id": "limited-messages"}}
    headers = {"authorization": "Bearer sk-ann--"}
    for _ in range(2):
        answer = httpx.post(f"{proxy.url}/v1/messages", json=body, headers=headers, timeout=60.0)
        assert answer.json()["content"][0]["text"] == "one two three"
    assert len(first.requests) == 2
    assert len(proxy.lines("journal")) == begun
