"""How a fake provider behaves: its settings, all in one frozen object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Self, TypedDict

from llmkit_plugins.call import Usage
from llmkit_plugins.errors import ConfigError
from llmkit_plugins.testing.fake_provider.checks import not_negative, whole
from llmkit_plugins.testing.fake_provider.faults import Fault
from llmkit_plugins.testing.fake_provider.latency import Latency, latency_of

RequestBody = Mapping[str, Any]
Reply = str | Sequence[str] | Callable[[RequestBody], str]


class BehaviourSettings(TypedDict, total=False):
    """The fields of :class:`Behaviour` as keyword arguments."""

    reply: Reply
    first_token_seconds: float | Latency
    per_token_seconds: float | Latency
    faults: Sequence[Fault]
    max_in_flight: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    models: Sequence[str]
    input_price: float
    output_price: float
    cached_price: float | None
    cached_tokens: int
    reasoning_tokens: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a fake provider behaves. Raises ``ConfigError`` if a setting cannot be used."""

    reply: Reply = "The quick brown fox jumps over the lazy dog."
    """What it says: always this, each of several in turn, or what a function makes of the request's body, in the
    thread of the server."""
    first_token_seconds: float | Latency = 0.0
    """Until the first token, which comes with the response's headers; embeddings take as long."""
    per_token_seconds: float | Latency = 0.0
    """From each token to the next. A whole answer takes as long as a streamed one."""
    faults: Sequence[Fault] = ()
    """What goes wrong; the first that hits a request counts."""
    max_in_flight: int | None = None
    """How many requests are processed at once; the rest wait in order of arrival. None: any number."""
    requests_per_minute: int | None = None
    """Beyond it: 429, with the time to wait. Reported in ``x-ratelimit-*-requests``. None: no limit."""
    tokens_per_minute: int | None = None
    """The same for tokens, prompt and answer together."""
    models: Sequence[str] = ()
    """The models it has; it answers 404 to a request for another. Empty: it has any."""
    input_price: float = 0.0
    """USD per million prompt tokens."""
    output_price: float = 0.0
    """USD per million completion tokens."""
    cached_price: float | None = None
    """USD per million prompt tokens read from its cache; None: as for any other."""
    cached_tokens: int = 0
    """How many tokens of each prompt it reports as read from its cache, at most all."""
    reasoning_tokens: int = 0
    """How many completion tokens it reports as spent on reasoning, besides those of the answer."""
    seed: int = 0
    """The seed of all randomness: the same seed and order of requests give the same latencies and faults."""

    def __post_init__(self) -> None:
        latency_of("first_token_seconds", self.first_token_seconds)
        latency_of("per_token_seconds", self.per_token_seconds)
        if not callable(self.reply) and not self.reply:
            raise ConfigError("there is nothing to say", key="reply", right="a text, several, or a function")
        if isinstance(self.models, str):
            raise ConfigError(f"{self.models!r} is one text", key="models", right=f"a list: [{self.models!r}]")
        for fault in self.faults:
            if not isinstance(fault, Fault):
                raise ConfigError(f"{fault!r} is not a fault", key="faults", right="[Fault('rate_limit')]")
        for key in ("max_in_flight", "requests_per_minute", "tokens_per_minute"):
            if getattr(self, key) is not None:
                whole(key, getattr(self, key), 1)
        for key in ("input_price", "output_price"):
            not_negative(key, getattr(self, key))
        if self.cached_price is not None:
            not_negative("cached_price", self.cached_price)
        for key in ("cached_tokens", "reasoning_tokens", "seed"):
            whole(key, getattr(self, key), 0)

    def changed(self, settings: Mapping[str, Any]) -> Self:
        """The same with other *settings*. Raises ``ConfigError`` for one that does not exist."""
        known = [field.name for field in fields(self)]
        for name in settings:
            if name not in known:
                near = get_close_matches(name, known, 1)
                raise ConfigError("there is no such setting", key=name, right=", ".join(near or known))
        return replace(self, **settings)

    def say(self, body: RequestBody, turn: int) -> str:
        """What it says to a request; *turn* counts from 0."""
        if callable(self.reply):
            return self.reply(body)
        return self.reply if isinstance(self.reply, str) else self.reply[turn % len(self.reply)]

    def cost(self, usage: Usage) -> float:
        """USD for *usage*."""
        cached_price = self.input_price if self.cached_price is None else self.cached_price
        prompt = (usage.input_tokens - usage.cached_tokens) * self.input_price + usage.cached_tokens * cached_price
        return (prompt + usage.output_tokens * self.output_price) / 1e6
