"""Errors in both directions: a kit's are LangChain's too, and LangChain's have a kind."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import httpx
import openai
import pytest
from langchain_core.exceptions import (
    ContextOverflowError,
    LangChainException,
    ModelAPIError,
    ModelConnectionError,
    ModelError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
)
from langchain_openai import ChatOpenAI
from llmkit_langchain import ChatLLMKit
from llmkit_langchain.errors import as_model_error, langchain_errors, model_error_kind

from llmkit_plugins import (
    CircuitOpen,
    ConfigError,
    EmptyAnswer,
    ForeignCancel,
    NoTarget,
    PluginFailed,
    RateLimited,
    Refused,
    TimedOut,
    UpstreamLost,
)
from llmkit_plugins.testing.fake_provider import Fault

CASES = [
    (RateLimited("per user", "u1", 1.5), ModelRateLimitError, True),
    (RateLimited("per user", "u1"), ModelRateLimitError, False),
    (CircuitOpen("a", 3.0), ModelError, True),
    (NoTarget({"a": CircuitOpen("a", 3.0), "b": "dropped by picky"}), ModelError, True),
    (NoTarget({"a": "dropped by picky"}), ModelError, False),
    (PluginFailed("guard"), ModelError, False),
    (Refused("not today"), ModelError, False),
    (TimedOut("too late"), ModelTimeoutError, True),
    (EmptyAnswer("nothing"), ModelAPIError, True),
    (ForeignCancel("cancelled"), ModelAPIError, True),
    (UpstreamLost("gone"), ModelConnectionError, True),
]


@pytest.mark.parametrize(("error", "family", "retryable"), CASES, ids=lambda part: getattr(part, "__name__", None))
def test_ours_are_theirs(error, family, retryable):
    """An error of the kit's is of its own class and LangChain's, with all its data, and says whether to retry."""
    made = as_model_error(error)
    assert isinstance(made, type(error))
    assert isinstance(made, family)
    assert made.is_retryable is retryable
    assert (str(made), made.args, vars(made)) == (str(error), error.args, vars(error))
    assert type(made).__name__ == type(error).__name__


@pytest.mark.parametrize("error", [case[0] for case in CASES], ids=lambda error: type(error).__name__)
def test_made_once(error):
    """Made again it is itself, and pickling keeps all of it."""
    made = as_model_error(error)
    assert as_model_error(made) is made
    copy = pickle.loads(pickle.dumps(made))
    assert (type(copy), str(copy), copy.is_retryable) == (type(made), str(made), made.is_retryable)


def test_somebody_elses_refusal():
    """A refusal of a plugin's own class stays one."""

    class OverBudget(Refused):
        """The month's money is spent."""

    with pytest.raises(OverBudget) as caught, langchain_errors:
        raise OverBudget("spent", 86_400.0)
    assert isinstance(caught.value, ModelError)
    assert caught.value.retry_after == 86_400.0


def test_cause_and_traceback_are_kept():
    """Where it comes from can still be seen, and not twice."""
    bug = ZeroDivisionError()

    def guard():
        raise PluginFailed("guard") from bug

    with pytest.raises(PluginFailed) as caught, langchain_errors:
        guard()
    assert caught.value.__cause__ is bug
    assert caught.value.__suppress_context__
    assert "guard" in [entry.name for entry in caught.traceback]


def test_other_errors_pass():
    """What is no end of a call is raised as it is."""
    with pytest.raises(ConfigError) as caught, langchain_errors:
        raise ConfigError("wrong")
    assert not isinstance(caught.value, LangChainException)


class _Retryable(ModelError):
    is_retryable = True


def _unreadable(status):
    """What a client raises that could not read an answer of that *status*."""
    error = TypeError("there are no choices")
    error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ModelRateLimitError(), "rate_limit"),
        (ModelTimeoutError(), "timeout"),
        (ModelConnectionError(), "connection"),
        (ModelAPIError(), "server"),
        (ModelPermissionDeniedError(), "auth"),
        (ModelNotFoundError(), "not_found"),
        (ContextOverflowError(), "context_length"),
        (_Retryable(), "server"),
        (ModelError(), "bad_request"),
        (TimeoutError(), "timeout"),
        (openai.APIError("broke off", request=httpx.Request("POST", "http://x"), body=None), "server"),
        (_unreadable(200), "server"),
        (_unreadable(None), None),
        (ValueError({"message": "slow down", "code": 429}), "rate_limit"),
        (ValueError({"message": "maximum context length", "code": "400"}), "context_length"),
        (ValueError({"message": "upstream failed", "code": "upstream"}), "server"),
        (ValueError("a bug"), None),
        (ValueError({"a": "bug"}), None),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, Exception) else None,
)
def test_theirs_have_a_kind(error, kind):
    """LangChain's classes say what happened, and a new one whether it is worth another try."""
    assert model_error_kind(error) == kind


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("rate_limit", retry_after=7), "rate_limit"),
        (Fault("server_error"), "server"),
        (Fault("server_error", status=504), "timeout"),
        (Fault("overloaded"), "overloaded"),
        (Fault("overloaded", status=529), "overloaded"),
        (Fault("auth"), "auth"),
        (Fault("not_found"), "not_found"),
        (Fault("context_length"), "context_length"),
        (Fault("disconnect"), "connection"),
        (Fault("malformed"), "server"),
    ],
    ids=lambda part: f"{part.kind} {part.status or ''}" if isinstance(part, Fault) else part,
)
@pytest.mark.parametrize("mode", ["invoke", "stream", "ainvoke", "astream"])
async def test_what_fails_over(mode, fault, kind, model, ask, first, recorder):
    """What a provider may do wrong over HTTP has its kind, and the next one answers."""
    first.fail_with(fault)
    assert await ask(mode, model) == ["four five"]
    assert recorder.attempts[0].kind == kind
    assert recorder.attempts[0].retry_after == fault.retry_after


@pytest.mark.parametrize("fault", [Fault("bad_request"), Fault("content_filter")], ids=lambda fault: fault.kind)
@pytest.mark.parametrize("mode", ["invoke", "stream", "ainvoke", "astream"])
async def test_what_does_not_fail_over(mode, fault, model, ask, first, second, recorder):
    """What the caller did wrong is the caller's: nobody else is asked."""
    first.fail_with(fault)
    with pytest.raises(ModelError) as caught:
        await ask(mode, model)
    assert not caught.value.is_retryable
    assert [attempt.kind for attempt in recorder.attempts] == [fault.kind]
    assert second.stats.requests == 0


@pytest.mark.parametrize("said", [{"choices": []}, {"choices": None, "error": {"message": "failed", "code": 502}}])
@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream", "astream"])
async def test_answers_that_are_none_fail_over(mode, said, kit, ask, second, chat_openai, recorder):
    """With status 200 a gateway may send an error, or nothing: the next provider answers."""
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"id": "1", "model": "m", **said}))
    async with httpx.AsyncClient(transport=transport) as asynchronous:
        with httpx.Client(transport=transport) as sync:
            clients = {"http_client": sync, "http_async_client": asynchronous}
            gateway = ChatOpenAI(
                model="m-1", base_url="http://x", api_key="k", max_retries=0, disable_streaming=True, **clients
            )
            model = ChatLLMKit({"gateway": gateway, "second": chat_openai(second, "m-2")}, kit)
            assert await ask(mode, model) == ["four five"]
    assert [attempt.kind for attempt in recorder.attempts] == ["server", None]


@pytest.mark.parametrize("fault", [Fault("empty"), Fault("malformed", after_chunks=0)], ids=lambda fault: fault.kind)
@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_streams_that_say_nothing_fail_over(mode, fault, model, ask, first, recorder):
    """A stream that began and said nothing was no answer: the next provider gives one."""
    first.fail_with(fault)
    assert await ask(mode, model) == ["four five"]
    assert [attempt.kind for attempt in recorder.attempts] == ["server", None]


def test_with_retry_tries_again(model, plugin, kit, recorder):
    """``with_retry`` for LangChain's errors retries a refusal."""
    refusals = iter([RateLimited("per user", "u1", 0.0)])

    def refuse_once(call):
        for refusal in refusals:
            raise refusal

    kit.register(plugin(pre_request=refuse_once))
    retrying = model.with_retry(
        retry_if_exception_type=(ModelError,), wait_exponential_jitter=False, stop_after_attempt=2
    )
    assert retrying.invoke("hi").text == "one two three"
    assert (recorder.counts["request refused"], recorder.counts["request ok"]) == (1, 1)


def test_with_fallbacks_moves_on(model, plugin, kit, second, chat_openai):
    """``with_fallbacks`` for LangChain's errors goes on to another model where all of these are refused."""

    def guard(call, attempt):
        raise CircuitOpen(attempt.target.name, 3.0)

    kit.register(plugin(pre_attempt=guard))
    falling = model.with_fallbacks([chat_openai(second, "m")], exceptions_to_handle=(ModelError,))
    assert falling.invoke("hi").text == "four five"
