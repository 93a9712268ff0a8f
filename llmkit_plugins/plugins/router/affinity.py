"""Which target calls with the same prefix go to, so that its provider's cache has their prompts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b
from math import log
from typing import Any

from llmkit_plugins.call import Call, Target
from llmkit_plugins.forks import new_rlock
from llmkit_plugins.plugins.router.track import Track
from llmkit_plugins.tokens import prompt_texts

_MOST_PREFIXES = _MOST_SALTS = 10_000
_MOST_TARGETS = 100
_SLACK = 1.25
_ALWAYS = 4
_MIX, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


class Affinity:
    """Rendezvous hashing (Thaler and Ravishankar 1998) of prompt prefixes, with bounded load (Mirrokni et al. 2016).

    Every process chooses the same target for the same first *chars* characters, in proportion to the weights, and
    keeps most of its choices when targets come and go. A target with a quarter more in flight than its share is passed
    over. What was sent where in the last *cache_seconds* is remembered, for at most ten thousand prefixes, and for
    each the latest hundred targets.
    """

    def __init__(self, chars: int, cache_seconds: float) -> None:
        self._chars, self._cache_seconds = chars, cache_seconds
        self._sent: dict[int, dict[str, float]] = {}
        self._salts: dict[str, int] = {}
        self._lock = new_rlock()

    def prefix(self, call: Call) -> int:
        """A hash of the prefix of *call*'s prompt; 0 if the prompt is too short to matter. Computed once per call."""
        prefix: int | None = call.state.get(self)
        if prefix is None:
            prefix = call.state[self] = self._hash_of(call.messages)
        return prefix

    def first(self, prefix: int, places: Sequence[int], targets: Sequence[Target], tracks: Sequence[Track]) -> int:
        """The one of *places* whose target should get calls with this *prefix*."""
        weights = sum([targets[place].weight for place in places]) or 1.0
        under_way = _SLACK * (sum([tracks[place].in_flight for place in places]) + 1)
        fit = [
            place
            for place in places
            if tracks[place].in_flight < max(_ALWAYS, under_way * (targets[place].weight or 0.0) / weights)
        ]
        return min(fit or places, key=lambda place: self._distance(prefix, targets[place]))

    def sent(self, prefix: int, target: str, now: float) -> None:
        """Remember that *target* answered a call with this *prefix*."""
        with self._lock:
            known = self._sent.pop(prefix, {})
            known.pop(target, None)
            known[target] = now + self._cache_seconds
            if len(known) > _MOST_TARGETS:
                del known[next(iter(known))]
            self._sent[prefix] = known
            while len(self._sent) > _MOST_PREFIXES:
                del self._sent[next(iter(self._sent))]

    def cached_at(self, prefix: int, now: float) -> Collection[str]:
        """The targets whose cache should have this *prefix*."""
        known = self._sent.get(prefix)
        return [name for name, until in known.copy().items() if now < until] if known else ()

    def _hash_of(self, messages: Any) -> int:
        texts: list[str] = []
        missing = self._chars
        for text in prompt_texts(messages):
            texts.append(text[:missing])
            missing -= len(text)
            if missing <= 0:
                return _hash("\0".join(texts)) or 1
        return 0

    def _distance(self, prefix: int, target: Target) -> float:
        salt = self._salts.get(target.name)
        if salt is None:
            if len(self._salts) >= _MOST_SALTS:  # a backend may make new targets for each call
                self._salts.clear()
            salt = self._salts[target.name] = _hash(target.name)
        mixed = ((prefix ^ salt) * _MIX) & _MASK
        mixed = ((mixed ^ (mixed >> 29)) * _MIX) & _MASK
        return -log((mixed + 1) / (_MASK + 2)) / (target.weight or 1e-9)


def _hash(text: str) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
