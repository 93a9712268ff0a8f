"""What an error of a provider's client means."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llmkit_plugins.errors import FAILOVER_KINDS, HEALTH_KINDS
from llmkit_plugins.provider_errors import kind_of, retry_after, retry_after_of, status_of

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


class ClientError(Exception):
    """An error as the clients of this field raise them: with a status, a code, and the response."""

    def __init__(self, text="", **attributes):
        super().__init__(text)
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "bad_request"),
        (401, "auth"),
        (402, "auth"),
        (403, "auth"),
        (404, "not_found"),
        (408, "timeout"),
        (409, "server"),
        (410, "not_found"),
        (413, "context_length"),
        (418, "bad_request"),
        (422, "bad_request"),
        (425, "overloaded"),
        (429, "rate_limit"),
        (500, "server"),
        (502, "server"),
        (503, "overloaded"),
        (504, "timeout"),
        (529, "overloaded"),
        (302, None),
    ],
)
def test_kinds_by_status(status, kind):
    """Each HTTP status has its kind, whether the error carries it itself or its response does."""
    assert kind_of(ClientError(status_code=status)) == kind
    assert kind_of(ClientError(response=SimpleNamespace(status_code=status))) == kind


@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        ("This model's maximum context length is 8192 tokens", None, "context_length"),
        ("prompt is too long: 250000 tokens > 200000 maximum", None, "context_length"),
        ("", "context_length_exceeded", "context_length"),
        ("The response was filtered by our content policy", None, "content_filter"),
        ("", "content_filter", "content_filter"),
        ("'messages' is missing", None, "bad_request"),
    ],
)
def test_what_a_bad_request_is_really_about(text, code, kind):
    """A 400 that speaks of the length of the prompt, or of a content filter, is of that kind."""
    assert kind_of(ClientError(text, code=code, status_code=400)) == kind


def test_a_word_about_length_elsewhere_means_nothing():
    """Only bad requests are read: a server error that mentions the context length is a server error."""
    assert kind_of(ClientError("maximum context length", status_code=500)) == "server"


@pytest.mark.parametrize("name", ["APITimeoutError", "TimeoutException", "Timeout"])
def test_timeouts_of_clients(name):
    """The timeouts of the usual clients are known by the names of their classes, without importing them."""
    assert kind_of(type(name, (Exception,), {})()) == "timeout"


@pytest.mark.parametrize("name", ["APIConnectionError", "TransportError", "ClientConnectionError"])
def test_connection_errors_of_clients(name):
    """So are their connection errors, and what derives from them."""
    assert kind_of(type("Derived", (type(name, (Exception,), {}),), {})()) == "connection"


def test_pythons_own_errors():
    """The built-in timeouts and connection errors have their kinds, any other exception has none."""
    assert kind_of(TimeoutError()) == "timeout"
    assert kind_of(ConnectionResetError()) == "connection"
    assert kind_of(ValueError()) is None


def test_an_errors_own_kind():
    """An error that says what kind it is, is believed, but only where that is one of the kinds."""
    assert kind_of(ClientError(kind="auth", status_code=500)) == "auth"
    assert kind_of(ClientError(kind="weird", status_code=500)) == "server"
    assert kind_of(ClientError(kind=["unhashable"])) is None


def test_a_status_that_is_no_number():
    """It is looked for further, and otherwise not there."""
    assert status_of(ClientError(status_code="teapot", response=SimpleNamespace(status_code="503"))) == 503
    assert status_of(ClientError(status_code=object())) is None


def test_the_kinds_that_matter():
    """What speaks of health may also be failed over; capacity, keys, models and length may, but do not."""
    assert {"rate_limit", "auth", "not_found", "context_length"} == FAILOVER_KINDS - HEALTH_KINDS
    assert {"bad_request", "content_filter", "cancelled"}.isdisjoint(FAILOVER_KINDS)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "12"}, 12.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": 7}, 7.0),
        ({"retry-after-ms": "2500"}, 2.5),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:50 -0000"}, 30.0),
        ({"Retry-After": "2023-11-14T22:13:50Z"}, 30.0),
        ({"Retry-After": "2023-11-14T22:13:50"}, 30.0),
        ({"Retry-After": "2023-11-14T23:13:50+01:00"}, 30.0),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:00 GMT"}, 0.0),
        ({"Retry-After": "-3"}, 0.0),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-reset-tokens": "1d"}, 86400.0),
        ({"x-ratelimit-reset": "1700000030"}, 30.0),
        ({"x-ratelimit-reset": "1700000030000"}, 30.0),
        ({"ratelimit-reset": "9"}, 9.0),
        ({"anthropic-ratelimit-requests-reset": "2023-11-14T22:14:20Z"}, 60.0),
        ({"llm_provider-retry-after": "4"}, 4.0),
        ({}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "6m0x"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": f"{'9' * 400}h"}, None),
        ({"retry-after": "nan", "retry-after-ms": "1e400"}, None),
        ({"date": "Tue, 14 Nov 2023 22:13:50 GMT", "x-ratelimit-limit": "60"}, None),
    ],
)
def test_how_long_to_stay_away(headers, seconds):
    """Seconds, milliseconds, durations, Unix times and dates are read from every usual header."""
    assert retry_after(headers, NOW) == pytest.approx(seconds)


def test_the_longest_wins():
    """Where several headers say, none of them is disregarded."""
    headers = {"retry-after": "2", "retry-after-ms": "3500", "x-ratelimit-reset-tokens": "1s"}
    assert retry_after(headers, NOW) == 3.5


def test_limits_that_are_not_used_up_do_not_count():
    """The reset of a limit with something remaining is none to wait for."""
    headers = {
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1m0s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "6s",
        "anthropic-ratelimit-input-tokens-remaining": "100",
        "anthropic-ratelimit-input-tokens-reset": "2030-01-01T00:00:00Z",
    }
    assert retry_after(headers, NOW) == 6.0
    assert retry_after({"x-ratelimit-remaining": "many", "x-ratelimit-reset": "6"}, NOW) is None


def test_dates_count_from_the_wall_clock():
    """Without a given time, a date is compared with that of the system."""
    assert retry_after({"retry-after": "Tue, 14 Nov 2023 22:13:20 GMT"}) == 0.0
    assert retry_after({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}) > 0.0


def test_where_an_error_says_it():
    """Its own attribute, else the headers of its response, else its own headers, else LiteLLM's."""
    slow = SimpleNamespace(headers={"retry-after": "8"})
    assert retry_after_of(ClientError(retry_after=3, response=slow)) == 3.0
    assert retry_after_of(ClientError(response=slow)) == 8.0
    assert retry_after_of(ClientError(headers={"retry-after": "5"})) == 5.0
    assert retry_after_of(ClientError(litellm_response_headers={"retry-after": "6"})) == 6.0
    assert retry_after_of(ClientError(headers=object(), response=SimpleNamespace(headers={}))) is None
    assert retry_after_of(ClientError()) is None


@pytest.mark.parametrize("own", [float("inf"), float("nan"), "7", None])
def test_an_errors_own_nonsense(own):
    """What cannot be waited for is not said."""
    assert retry_after_of(ClientError(retry_after=own)) is None


def test_an_error_never_asks_for_less_than_nothing():
    """A negative wait is none."""
    assert retry_after_of(ClientError(retry_after=-2.0)) == 0.0
