"""Some targets that calls can go to, beside what is known of each."""

from __future__ import annotations

from collections.abc import Sequence

from llmkit_plugins.call import Target
from llmkit_plugins.plugins.router.track import Track


class Lineup:
    """The *targets* that a call could go to, with their *tracks*, and what they have in common: found out once for all
    calls that can go to the same."""

    __slots__ = ("alike", "targets", "tracks", "weights")

    def __init__(self, targets: Sequence[Target], tracks: Sequence[Track], *, discounts: bool = False) -> None:
        self.targets, self.tracks = targets, tracks
        weights = [target.weight for target in targets]
        self.weights = None if len(set(weights)) == 1 else weights
        """Of the targets; None where all have the same."""
        self.alike = not discounts and len({(target.input_price, target.output_price) for target in targets}) == 1
        """Whether they cost the same, and there are no *discounts* for what one of them knows already."""
