"""What a request's arguments say: who asks, for what, and nothing secret."""

from __future__ import annotations

import litellm
import openai
import pytest
from litellm.integrations.custom_logger import CustomLogger
from llmkit_litellm.calls import call_of

from llmkit_plugins import MultiplexerPlugin

PROMPT = [{"role": "user", "content": "hi"}]
ARGUMENTS = {"model": "gpt", "messages": PROMPT, "stream": True, "temperature": 0.5, "tools": [1], "api_key": "s3cret"}

WHO = [
    ({"user": "u"}, "u", None),
    ({"metadata": {"user": "u", "tenant": "t"}}, "u", "t"),
    ({"metadata": {"user_id": 7}}, "7", None),
    ({"litellm_metadata": {"user": "u"}}, "u", None),
    ({"user": "u", "metadata": {"user": "other"}}, "u", None),
    ({"metadata": None}, None, None),
    ({"user": "", "metadata": {"user": "u"}}, "u", None),
]

KEY = {"user_api_key_hash": "h", "user_api_key_user_id": "u", "user_api_key_team_id": "t", "user_api_key_org_id": "o"}
BEHIND_THE_PROXY = [
    ({"metadata": KEY}, "u", "t"),
    ({"litellm_metadata": KEY}, "u", "t"),
    ({"metadata": {**KEY, "user_api_key_end_user_id": "e"}, "user": "e"}, "e", "t"),
    ({"metadata": {**KEY, "user_api_key_team_id": None}}, "u", "o"),
    ({"metadata": {"user_api_key_hash": "h", "user_api_key_user_id": None}}, "h", None),
    ({"metadata": {**KEY, "user": "x", "user_id": "x", "tenant": "x"}}, "u", "t"),
    ({"metadata": {"user": "x", "tenant": "x"}, "litellm_metadata": KEY}, "u", "t"),
    ({"metadata": {"user_api_key_hash": "h", "user": "x", "tenant": "x"}}, "h", None),
]


@pytest.mark.parametrize(("given", "user", "tenant"), WHO)
def test_who_asks(given, user, tenant):
    """The user is the argument, else the metadata's; the tenant is the metadata's."""
    call = call_of({**ARGUMENTS, **given})
    assert (call.user, call.tenant) == (user, tenant)


@pytest.mark.parametrize(("given", "user", "tenant"), BEHIND_THE_PROXY)
def test_who_asks_behind_the_proxy(given, user, tenant):
    """Who the key is, whatever the client says of itself in its metadata."""
    call = call_of({**ARGUMENTS, **given})
    assert (call.user, call.tenant) == (user, tenant)


def test_what_is_asked():
    """Model, prompt and parameters, without what is only LiteLLM's plumbing."""
    plumbing = {"num_retries": 3, "timeout": 5, "client": object(), "_private": 1, "metadata": {"x": 1}, "seed": None}
    plumbing["secret_fields"] = {"raw_headers": {"x-request-id": "1"}}  # the proxy's
    call = call_of({**ARGUMENTS, **plumbing})
    assert (call.model, call.messages, call.stream, call.operation) == ("gpt", PROMPT, True, "chat")
    assert {name: value for name, value in call.params.items() if name != "credential"} == {
        "temperature": 0.5,
        "tools": [1],
    }
    assert call.metadata == {"x": 1}


def test_secrets_are_told_apart_but_not_told():
    """A key is not among the parameters, but who asks with another key asks something else."""
    one, same, other = (call_of({**ARGUMENTS, "api_key": key}) for key in ("s3cret", "s3cret", "0ther"))
    assert "s3cret" not in repr(one.params)
    assert one.params == same.params
    assert one.params != other.params
    assert "credential" not in call_of({"model": "m", "messages": [], "max_tokens": 5}).params


def same(one, other):
    """Whether the two may share an answer."""
    keys = [MultiplexerPlugin().llmkit_pre_request(call_of({**ARGUMENTS, **given})) for given in (one, other)]
    return keys[0] == keys[1] is not None


CLIENTS = [(openai.AsyncOpenAI, {}), (openai.AsyncAzureOpenAI, {"api_version": "1"})]


@pytest.mark.parametrize("name", ["headers", "extra_headers"])
def test_headers(name):
    """Those that only tell requests apart do not; any other may be a secret, and is told apart, not told."""
    mine = {"Authorization": "s3cret", "x-mine": "1"}
    traced = {"X-MINE": "1", "authorization": "s3cret", "traceparent": "t", "x-request-id": "r"}
    assert same({name: mine}, {name: traced})
    assert same({}, {name: {"x-request-id": "r"}})
    assert not same({name: mine}, {name: {**mine, "Authorization": "0ther"}})
    assert not same({name: mine}, {name: {**mine, "x-mine": "2"}})
    assert "s3cret" not in repr(call_of({**ARGUMENTS, name: traced}).params)


def test_a_header_that_asks_for_no_cached_answer():
    """It is not shared either."""
    asked = call_of({**ARGUMENTS, "extra_headers": {"Cache-Control": "no-cache", "x-api-key": "k"}})
    assert MultiplexerPlugin().llmkit_pre_request(asked) is None


@pytest.mark.parametrize(("cls", "more"), CLIENTS)
def test_a_client_of_the_callers_own(cls, more):
    """It brings its credential and its address: who asks with another, asks something else."""

    def client(key="s3cret", url="http://here", **given):
        return {"client": cls(api_key=key, base_url=url, **more, **given)}

    assert same(client(), client())
    for other in ({}, client(key="0ther"), client(url="http://there"), client(default_headers={"x-org": "o"})):
        assert not same(client(), other)
    assert "s3cret" not in repr(call_of({**ARGUMENTS, **client()}).params)
    one, another = object(), object()
    assert same({"client": one}, {"client": one})
    assert not same({"client": one}, {"client": another})


LOGS = ["litellm_session_id", "litellm_trace_id", "no-log", "turn_off_message_logging", "litellm_disabled_callbacks"]


@pytest.mark.parametrize("name", LOGS)
def test_what_does_not_matter(name):
    """What is only for LiteLLM's logs keeps nobody from sharing."""
    assert same({name: "1"}, {name: "2"})


FALLBACKS = ["fallbacks", "context_window_fallbacks", "content_policy_fallbacks"]


@pytest.mark.parametrize("name", FALLBACKS)
def test_fallbacks_of_ones_own(name):
    """Who would be answered by another model when his fails does not share the failure of one who would not."""
    assert not same({name: ["other"]}, {})
    assert not same({name: ["other"]}, {name: ["others"]})
    assert same({name: ["other"]}, {name: ["other"]})


def test_tags():
    """A Router may select by them, so who has others asks something else; unless they are only for the books."""
    free, paid = ({"metadata": {"tags": [tag]}} for tag in ("free", "paid"))
    assert same(free, {"litellm_metadata": {"tags": ["free"]}})
    assert not same(free, paid)
    assert not same(free, {})
    books = MultiplexerPlugin(ignored_params=["tags"])
    one, other = (books.llmkit_pre_request(call_of({**ARGUMENTS, **given})) for given in (free, paid))
    assert one == other


def test_the_id():
    """The caller's, where he gives one."""
    assert call_of({**ARGUMENTS, "litellm_call_id": "mine"}).id == "mine"
    assert call_of(ARGUMENTS).id != call_of(ARGUMENTS).id


def test_a_call_that_is_not_to_be_cached_is_not_shared():
    """LiteLLM's own mark reaches the plugins, and the multiplexer lets such a call go alone."""
    marked = call_of({"model": "m", "messages": [{"role": "user", "content": "hi"}], "cache": {"no-cache": True}})
    plain = call_of({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    plugin = MultiplexerPlugin()
    assert plugin.llmkit_pre_request(marked) is None
    assert plugin.llmkit_pre_request(plain) is not None


@pytest.mark.parametrize("given", [None, "mine"])
async def test_litellm_knows_a_call_by_its_id(given, entrance, mode, ask, recorder):
    """Its callbacks are told the id that is in the plugins' spans and logs: the caller's, else the kit's."""
    seen: list[str] = []

    class Watch(CustomLogger):
        def log_pre_api_call(self, model, messages, kwargs):
            seen.append(kwargs["litellm_call_id"])

    litellm.callbacks = [Watch()]
    await ask(mode, entrance, **({} if given is None else {"litellm_call_id": given}))
    (call,) = recorder.calls
    assert set(seen) == {call.id}
    assert given in (None, call.id)
