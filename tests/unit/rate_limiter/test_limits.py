"""Limits as they are written."""

from __future__ import annotations

import pytest

from llmkit_plugins import ConfigError
from llmkit_plugins.plugins.rate_limiter import Limit
from llmkit_plugins.plugins.rate_limiter.limits import Facts
from llmkit_plugins.plugins.rate_limiter.rate import Rate


@pytest.mark.parametrize(
    ("text", "amount", "per"),
    [
        ("100/s", 100, 1),
        ("90_000/min", 90_000, 60),
        ("3/min", 3, 60),
        ("500/10s", 500, 10),
        ("1.5 / second", 1.5, 1),
        ("2/minutes", 2, 60),
        ("7/m", 7, 60),
        ("10/h", 10, 3600),
        ("10/hour", 10, 3600),
        ("1/day", 1, 86400),
        ("1000/2d", 1000, 172800),
    ],
)
def test_rates_are_read(text, amount, per):
    """A rate is a number, a slash and a period; without a burst it is one period's worth."""
    rate = Limit(requests=text).rates()["requests"]
    assert (rate.amount, rate.per, rate.burst) == (amount, per, max(1, amount))


@pytest.mark.parametrize("text", ["5 USD/day", "5USD/d", "5 $/day", "5/day"])
def test_money_is_read(text):
    """Costs are in US dollars, with or without saying so."""
    rate = Limit(cost=text).rates()["cost"]
    assert (rate.amount, rate.per, rate.burst) == (5, 86400, 5)


def test_less_than_a_dollar_is_a_budget(clock):
    """A budget of half a dollar is half a dollar at once, not one."""
    assert Limit(cost="0.5 USD/day").rates()["cost"].burst == 0.5


@pytest.mark.parametrize(
    "text", ["", "100", "100/", "/s", "100/x", "-1/s", "0/s", "1/0s", "1__0/s", "1.2.3/s", "5 EUR/day", 100]
)
def test_what_is_no_rate_is_an_error(text):
    """What cannot be read names the setting and shows what would be right."""
    with pytest.raises(ConfigError, match=r"is not a rate .*100/s") as caught:
        Limit(requests=text)
    assert caught.value.key == "requests"


def test_requests_are_not_paid_in_dollars():
    """A currency belongs to costs only."""
    with pytest.raises(ConfigError, match="is not a rate"):
        Limit(requests="5 USD/day")
    with pytest.raises(ConfigError, match="5 USD/day"):
        Limit(cost="5 EUR/day")


@pytest.mark.parametrize(
    ("settings", "key", "right"),
    [
        ({}, "limit", "give one of concurrency, cost"),
        ({"requests": "1/s", "per": ("usr",)}, "per", "did you mean user?"),
        ({"requests": "1/s", "per": ("x",)}, "per", "one of provider"),
        ({"requests": "1/s", "per": ("metadata.",)}, "per", "metadata.<key>"),
        ({"requests": "1/s", "match": {"modle": "m"}}, "match", "did you mean model?"),
        ({"requests": "1/s", "tokens": "9/s", "burst": 5}, "burst", "a limit of its own"),
        ({"concurrency": 5, "burst": 5}, "burst", "a limit of its own"),
        ({"requests": "1/s", "burst": 0}, "burst", "above 0"),
        ({"concurrency": 0}, "concurrency", "at least 1"),
        ({"concurrency": True}, "concurrency", "at least 1"),
        ({"concurrency": 1.5}, "concurrency", "a whole number"),
        ({"requests": "1/s", "per": 3}, "per", "a list of keys"),
        ({"requests": "1/s", "per": ["user", 3]}, "per", "a list of keys"),
        ({"requests": "1/s", "match": "gpt-4o"}, "match", "a table"),
        ({"requests": "1/s", "match": {"model": 3}}, "match.model", "a list of texts"),
        ({"requests": "1/s", "match": {"model": ["gpt-4o", 3]}}, "match.model", "a list of texts"),
        ({"requests": "1/s", "match": {"model": []}}, "match.model", "a list of texts"),
    ],
)
def test_what_makes_no_sense_is_an_error(settings, key, right):
    """Each mistake is named, with what would be right."""
    with pytest.raises(ConfigError) as caught:
        Limit(**settings)
    assert caught.value.key == key
    assert right in caught.value.right


@pytest.mark.parametrize(
    ("settings", "of_the_attempt"),
    [
        ({"per": ("user",)}, False),
        ({"per": ("tenant", "metadata.team")}, False),
        ({}, False),
        ({"per": ("provider",)}, True),
        ({"per": ("user", "model")}, True),
        ({"per": ("user",), "match": {"target": "t"}}, True),
    ],
)
def test_when_a_limit_is_charged(settings, of_the_attempt):
    """What needs to know the target is charged for attempts, the rest once for each caller."""
    assert Limit(requests="1/s", **settings).of_the_attempt is of_the_attempt


@pytest.mark.parametrize(
    ("limit", "key"),
    [
        (Limit(requests="1/s"), ()),
        (Limit(requests="1/s", per="user"), "ann"),
        (Limit(requests="1/s", per=["user", "model"]), ("ann", "gpt-4o-mini")),
        (Limit(requests="1/s", per=("tenant",)), None),
        (Limit(requests="1/s", per=("user", "tenant")), None),
        (Limit(requests="1/s", per=("metadata.team",)), "7"),
        (Limit(requests="1/s", per=("metadata.city",)), None),
        (Limit(requests="1/s", per=("user",), match={"model": "gpt-4o*"}), "ann"),
        (Limit(requests="1/s", per=("user",), match={"model": "gpt-4o"}), None),
        (Limit(requests="1/s", per=("user",), match={"model": ["x", "gpt-4o-min?"], "user": "a*"}), "ann"),
        (Limit(requests="1/s", per=("user",), match={"tenant": "*"}), None),
        (Limit(requests="1/s", match={"metadata.team": "7"}), ()),
    ],
)
def test_under_which_key_a_call_is_counted(limit, key):
    """The key is made of what the limit is per; a call that lacks a part, or does not match, is not counted."""
    facts = Facts(model="gpt-4o-mini", user="ann", metadata={"team": 7, "city": None})
    assert limit.key()(facts) == key


def test_a_key_that_is_no_text_is_matched_as_one():
    """Whoever numbers his users is limited like anybody."""
    facts = Facts(user=42)
    assert Limit(requests="1/s", per=("user",), match={"user": "4*"}).key()(facts) == 42
    assert Limit(requests="1/s", per=("user",), match={"user": "7"}).key()(facts) is None


def test_titles_say_what_they_limit():
    """A limit is called what it says, or by its name, with what it counts where that is several things."""
    limit = Limit(requests="60/min", tokens="90_000/min", per=("user", "model"))
    assert limit.title("requests") == "requests 60/min per user and model"
    assert limit.title("tokens") == "tokens 90_000/min per user and model"
    assert Limit(concurrency=5).title("concurrency") == "concurrency 5"
    assert Limit(requests="1/s", name="free").title("requests") == "free"
    assert Limit(requests="1/s", concurrency=1, name="free").title("concurrency") == "free (concurrency)"


def test_presets():
    """The usual hierarchy has its three limits."""
    presets = [Limit.per_provider(), Limit.per_model(), Limit.per_user()]
    assert [(limit.requests, limit.per) for limit in presets] == [
        ("100/s", ("provider",)),
        ("10/s", ("model",)),
        ("1/s", ("user",)),
    ]


def test_a_rate_says_what_it_is():
    """The repr of a rate has its three numbers."""
    assert repr(Rate(100, 50)) == "Rate(100, burst=50, per=1)"
