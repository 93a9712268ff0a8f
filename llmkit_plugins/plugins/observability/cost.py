"""What an attempt cost, and when that is unknown."""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from typing import Any

from llmkit_plugins.call import Attempt, Target, Usage

_IDS = {
    "azure_ai": "azure",
    "bedrock": "aws",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "together_ai": "together",
    "vertex_ai": "google",
    "xai": "x-ai",
}
"""genai-prices' names of providers that differ from the frameworks'."""

_KEPT = 1000
"""How many models are remembered."""


def has_cost(attempt: Attempt) -> bool:
    """Whether *attempt* cost something, known or not: it was answered, fully or partly, or abandoned."""
    if attempt.usage is not None or attempt.reported_cost is not None or attempt.first_chunk is not None:
        return True
    return attempt.started is not None and attempt.outcome not in ("error", "refused")


class Prices:
    """USD for an attempt: by the target's prices, else as the framework priced it, else by genai-prices if installed
    (the extra ``prices``). Unknown is None, never 0."""

    def __init__(self) -> None:
        self._remembered: dict[tuple[str, str], Target | None] = {}

    def load(self) -> None:
        """Read the price list now: it takes half a second, which no call should wait for."""
        if (prices := _genai_prices()) is not None:
            prices.calc_price(prices.Usage(input_tokens=1), "gpt-4o-mini", provider_id="openai")

    def cost(self, attempt: Attempt) -> float | None:
        """What *attempt* cost; None if the price or the usage is unknown."""
        cost = attempt.cost
        return cost if cost is not None or attempt.usage is None else self.listed(attempt.target, attempt.usage)

    def listed(self, target: Target, usage: Usage) -> float | None:
        """What *usage* of *target* costs according to the price list."""
        if not usage.total_tokens:
            return 0.0
        model = (target.provider, target.model)
        if model in self._remembered:  # otherwise each calculation takes a tenth of a millisecond
            flat = self._remembered[model]
            return None if flat is None else flat.cost(usage)
        cost, flat, settled = _look_up(target, usage)
        if settled and len(self._remembered) < _KEPT:
            self._remembered[model] = flat
        return cost


def _look_up(target: Target, usage: Usage) -> tuple[float | None, Target | None, bool]:
    """The listed cost of *usage*, the price itself if it is the same for any usage, and whether that is final."""
    prices = _genai_prices()
    if prices is None:
        return None, None, True
    counted = prices.Usage(
        input_tokens=usage.input_tokens, cache_read_tokens=usage.cached_tokens, output_tokens=usage.output_tokens
    )
    provider = _IDS.get(target.provider, target.provider)
    try:
        listed = prices.calc_price(counted, target.model, provider_id=provider)
    except (LookupError, ValueError):
        return None, None, True
    flat = _flat(listed)
    return float(listed.total_price), flat, flat is not None


def _flat(listed: Any) -> Target | None:
    """The price in a target's form; None if it depends on the time of day, the prompt size, or the request count."""
    price = listed.model_price
    fresh, answer, cached = (getattr(price, f"{kind}_mtok", None) for kind in ("input", "output", "cache_read"))
    if isinstance(listed.model.prices, list) or getattr(price, "requests_kcount", None) is not None:
        return None
    if not isinstance(fresh, Decimal) or not isinstance(answer, Decimal) or not isinstance(cached, Decimal | None):
        return None
    return Target("listed", "", "", float(fresh), float(answer), None if cached is None else float(cached))


@cache
def _genai_prices() -> Any:
    try:
        import genai_prices
    except ImportError:
        return None
    return genai_prices
