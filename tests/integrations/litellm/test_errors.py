"""LiteLLM's exceptions as kinds, and ours as LiteLLM's."""

from __future__ import annotations

import httpx
import litellm
import pytest
from litellm.exceptions import MidStreamFallbackError
from litellm.types.router import RouterRateLimitError
from llmkit_litellm.errors import as_litellm, kind_of, retry_after_of

from llmkit_plugins import (
    CircuitOpen,
    EmptyAnswer,
    ForeignCancel,
    NoTarget,
    RateLimited,
    Refused,
    TimedOut,
    UpstreamLost,
)
from llmkit_plugins.testing import FakeProvider
from llmkit_plugins.testing.fake_provider import Fault


def made(cls, **more):
    return cls(message="m", llm_provider="openai", model="m", **more)


RESPONSE = httpx.Response(403, request=httpx.Request("POST", "http://127.0.0.1"))
KINDS = [
    (made(litellm.RateLimitError), "rate_limit"),
    (made(litellm.ServiceUnavailableError), "overloaded"),
    (made(litellm.InternalServerError), "server"),
    (made(litellm.BadGatewayError), "server"),
    (made(litellm.APIConnectionError), "connection"),
    (made(litellm.Timeout), "timeout"),
    (made(litellm.AuthenticationError), "auth"),
    (made(litellm.PermissionDeniedError, response=RESPONSE), "auth"),
    (made(litellm.BadRequestError), "bad_request"),
    (made(litellm.NotFoundError), "not_found"),
    (made(litellm.ContextWindowExceededError), "context_length"),
    (made(litellm.ContentPolicyViolationError), "content_filter"),
    (made(litellm.APIError, status_code=500), "server"),
    (made(litellm.APIError, status_code=200), "server"),
    (litellm.BudgetExceededError(1.0, 1.0), None),
    (RouterRateLimitError("m", 5.0, False, []), "rate_limit"),
    (made(MidStreamFallbackError, original_exception=made(litellm.Timeout)), "timeout"),
    (made(MidStreamFallbackError), "overloaded"),
    (ValueError("a bug"), None),
]


@pytest.mark.parametrize(("error", "kind"), KINDS, ids=lambda value: type(value).__name__)
def test_kinds(error, kind):
    """Each exception of LiteLLM's has its kind; what is nobody's answer has none."""
    assert kind_of(error) == kind


async def test_a_request_that_litellm_stumbles_over(routed, mode, ask, recorder):
    """It speaks ill of no deployment, whatever LiteLLM says: any client could have everybody's circuits opened."""
    with pytest.raises(Exception, match="no attribute"):
        await ask(mode, routed, messages="not a list")
    assert {(attempt.outcome, attempt.kind) for attempt in recorder.attempts} == {("error", None)}


def test_retry_after():
    """Read from wherever LiteLLM puts it."""
    limited = made(litellm.RateLimitError)
    assert retry_after_of(limited) is None
    limited.litellm_response_headers = httpx.Headers({"retry-after": "7"})
    assert retry_after_of(limited) == 7.0
    assert retry_after_of(made(MidStreamFallbackError, original_exception=limited)) == 7.0
    assert retry_after_of(RouterRateLimitError("m", 5.0, False, [])) == 5.0


SPENT, OPEN = RateLimited("r", "u", 2.5), CircuitOpen("a", 30.0)
OURS = [
    (SPENT, litellm.RateLimitError, "3"),
    (OPEN, litellm.ServiceUnavailableError, "30"),
    (Refused("no"), litellm.ServiceUnavailableError, None),
    (Refused("soon", 0.0), litellm.ServiceUnavailableError, "1"),
    (NoTarget({"a": SPENT, "b": SPENT}), litellm.RateLimitError, "3"),
    (NoTarget({"a": SPENT, "b": OPEN}), litellm.ServiceUnavailableError, "3"),
    (NoTarget({}), litellm.ServiceUnavailableError, None),
    (TimedOut("slow"), litellm.Timeout, None),
    (EmptyAnswer("empty"), litellm.InternalServerError, None),
    (ForeignCancel("cancelled"), litellm.APIConnectionError, None),
    (UpstreamLost("lost"), litellm.APIConnectionError, None),
]


@pytest.mark.parametrize(("error", "base", "retry_after"), OURS, ids=lambda value: type(value).__name__)
def test_ours_are_theirs_too(error, base, retry_after):
    """Each of our errors is raised as its own class and as LiteLLM's, with all its data, and how long to wait."""
    raised = as_litellm(error, "gpt")
    assert isinstance(raised, base)
    assert isinstance(raised, type(error))
    assert raised.args == error.args
    assert {name: getattr(raised, name) for name in vars(error)} == vars(error)
    assert str(error) in str(raised)
    assert raised.model == "gpt"
    assert raised.headers == ({} if retry_after is None else {"retry-after": retry_after})
    if isinstance(raised, litellm.RateLimitError | litellm.ServiceUnavailableError):
        assert raised.response.headers.get("retry-after") == retry_after
    assert raised.headers is not as_litellm(error, "gpt").headers
    assert raised.num_retries == (0 if isinstance(error, Refused) else None)


def test_once_is_enough():
    """What is LiteLLM's already stays as it is."""
    raised = as_litellm(SPENT, "gpt")
    assert as_litellm(raised, "gpt") is raised


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_that_is_gone_is_no_connection(stream):
    """LiteLLM says 500 of it, but whoever is on call must see that nobody answers there."""
    with FakeProvider() as provider:
        access = {"model": "openai/gpt-4o", "messages": [], "api_base": provider.url, "api_key": "any"}
    with pytest.raises(litellm.InternalServerError) as raised:
        litellm.completion(**access, stream=stream, max_retries=0)
    assert kind_of(raised.value) == "connection"
    with pytest.raises(litellm.InternalServerError) as raised:
        await litellm.acompletion(**access, stream=stream, max_retries=0)
    assert kind_of(raised.value) == "connection"


def test_a_provider_that_answers_500_is_a_server():
    """A real 500 stays one."""
    with FakeProvider() as provider:
        provider.fail_with(Fault("server_error"))
        access = {"model": "openai/gpt-4o", "messages": [], "api_base": provider.url, "api_key": "any"}
        with pytest.raises(litellm.InternalServerError) as raised:
            litellm.completion(**access, max_retries=0)
    assert kind_of(raised.value) == "server"
