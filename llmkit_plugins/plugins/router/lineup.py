"""A set of targets that calls can go to, with what is known of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from llmkit_plugins.call import Target
from llmkit_plugins.plugins.router.track import Track

Price = tuple[float, float]
"""USD for an input token, and for an output token."""


class Lineup:
    """The *targets* that a call could go to, with their *tracks*; prices and weights are worked out once for all calls
    with the same targets."""

    __slots__ = ("alike", "prices", "targets", "tracks", "weights")

    def __init__(self, targets: Sequence[Target], tracks: Sequence[Track], *, discounts: bool) -> None:
        self.targets, self.tracks = targets, tracks
        self.prices: Sequence[Price | None] = [_price(target) for target in targets]
        """What each costs; None if unknown."""
        self.alike = len(set(self.prices)) == 1 and not discounts
        """Whether all cost the same, with no *discounts* for cached prompts."""
        weights = [target.weight for target in targets]
        self.weights = None if len(set(weights)) == 1 else weights
        """None where all have the same."""

    def pair(self, one: int, other: int) -> Lineup:
        """Two of them, to be compared."""
        pair = object.__new__(Lineup)
        pair.targets = (self.targets[one], self.targets[other])
        pair.tracks = (self.tracks[one], self.tracks[other])
        pair.prices, pair.alike = (self.prices[one], self.prices[other]), self.alike
        pair.weights = None
        return pair

    def discounted(self, cached_at: Collection[str]) -> list[Price | None]:
        """What each costs where those of the names *cached_at* have in their cache how the prompt begins."""
        prices = list(self.prices)
        for place, target in enumerate(self.targets):
            price = prices[place]
            if price is not None and target.cached_price is not None and target.name in cached_at:
                saved = self.tracks[place].cached_share * (price[0] - target.cached_price / 1e6)
                prices[place] = (price[0] - saved, price[1])
        return prices


def _price(target: Target) -> Price | None:
    if target.input_price is None or target.output_price is None:
        return None
    return target.input_price / 1e6, target.output_price / 1e6
