"""What a request's arguments say: who asks, for what, and nothing secret."""

from __future__ import annotations

import litellm
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
