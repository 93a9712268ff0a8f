"""What an attempt cost: whose price counts, and that nobody's is no zero."""

from __future__ import annotations

import genai_prices
import pytest

from llmkit_plugins import Attempt, Target, Usage
from llmkit_plugins.plugins.observability import cost
from llmkit_plugins.plugins.observability.cost import Prices

MILLION = Usage(1_000_000, 1_000_000)


def attempt(provider: str, model: str, usage: Usage | None = MILLION, reported: float | None = None, **prices: float):
    made = Attempt(1, Target("t", provider, model, **prices))
    made.usage, made.reported_cost = usage, reported
    return made


def test_the_targets_price_counts_first():
    """Whatever others say."""
    assert Prices().cost(attempt("openai", "gpt-4o-mini", reported=7.0, input_price=1.0, output_price=2.0)) == 3.0


def test_then_what_the_framework_reported():
    """Also where it is nothing: its own cache answered."""
    assert Prices().cost(attempt("openai", "gpt-4o-mini", reported=7.0)) == 7.0
    assert Prices().cost(attempt("openai", "gpt-4o-mini", None, reported=0.0)) == 0.0


LISTED = [
    ("openai", "gpt-4o-mini", "openai"),
    ("bedrock", "anthropic.claude-3-5-sonnet-20241022-v2:0", "aws"),
    ("gemini", "gemini-2.5-pro", "google"),
    ("deepseek", "deepseek-chat", "deepseek"),
    ("perplexity", "sonar", "perplexity"),
]


@pytest.mark.parametrize(("provider", "model", "listed_as"), LISTED, ids=[model for _, model, _ in LISTED])
def test_then_the_price_list(provider, model, listed_as):
    """To the cent what genai-prices says, for small prompts and large, again and again."""
    prices = Prices()
    for usage in (Usage(1000, 500, cached_tokens=200), Usage(300_000, 10), Usage(1000, 500)):
        counted = genai_prices.Usage(
            input_tokens=usage.input_tokens, cache_read_tokens=usage.cached_tokens, output_tokens=usage.output_tokens
        )
        listed = genai_prices.calc_price(counted, model, provider_id=listed_as).total_price
        assert prices.cost(attempt(provider, model, usage)) == pytest.approx(float(listed))


@pytest.mark.parametrize(("provider", "model"), [("openai", "no-such-model"), ("nobody", "gpt-4o-mini")])
def test_unknown_is_unknown(provider, model):
    """A model or a provider that is not listed has no price; it is looked for once."""
    prices = Prices()
    assert prices.cost(attempt(provider, model)) is None
    assert prices.cost(attempt(provider, model)) is None


def test_no_usage_no_cost():
    """What an attempt used must be known to know its cost; nothing used costs nothing."""
    assert Prices().cost(attempt("openai", "gpt-4o-mini", None)) is None
    assert Prices().cost(attempt("nobody", "nothing", Usage())) == 0.0


def test_without_the_list_there_is_no_price(monkeypatch):
    """The extra need not be installed."""
    monkeypatch.setattr(cost, "_genai_prices", lambda: None)
    prices = Prices()
    prices.load()
    assert prices.cost(attempt("openai", "gpt-4o-mini")) is None
