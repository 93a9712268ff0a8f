"""The words: what travels through the hooks. Times are seconds of the kit's clock, money is US dollars."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Any, Literal

from llmkit_plugins.errors import ConfigError, ErrorKind

Outcome = Literal["ok", "error", "refused", "cancelled"]

_serial = count(1)
_process = ""


def _renew_process() -> None:
    global _process
    _process = os.urandom(6).hex()


_renew_process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_process)


def new_id() -> str:
    """A request id: 12 random hex digits for the process and a serial number (a fifth of the cost of a random id
    each)."""
    return f"{_process}{next(_serial):08x}"


@dataclass(slots=True)
class Usage:
    """The tokens of one answer, as the provider counted them."""

    input_tokens: int = 0
    """Tokens of the prompt, cached ones included."""
    output_tokens: int = 0
    """Tokens of the answer, reasoning included."""
    cached_tokens: int = 0
    """The part of the input that was read from the provider's cache."""
    reasoning_tokens: int = 0
    """The part of the output that was spent on reasoning."""

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


@dataclass(slots=True, eq=False)
class Target:
    """One place that can answer a call. Raises ``ConfigError`` if a price or the weight is not a finite number of at
    least 0."""

    name: str
    """Unique within a kit."""
    provider: str
    """Who runs it: ``openai``, ``anthropic``, ``azure`` …"""
    model: str
    """The provider's name of the model."""
    input_price: float | None = None
    """USD per million input tokens; None: unknown, 0: free."""
    output_price: float | None = None
    """USD per million output tokens."""
    cached_price: float | None = None
    """USD per million input tokens read from the provider's cache; None: as any input."""
    weight: float = 1.0
    """Share of the traffic among equals."""
    serves: frozenset[str] | None = None
    """The models asked for that it can answer; None: any."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Whatever plugins need to know: region, tags, limits."""

    def __post_init__(self) -> None:
        for name in ("input_price", "output_price", "cached_price", "weight"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value < inf):
                key = f"targets.{self.name}.{name}"
                raise ConfigError(f"{value!r} is not valid", key=key, right="a number, 0 or more")

    def cost(self, usage: Usage) -> float | None:
        """USD for *usage*, or None where a price that matters is unknown."""
        if self.input_price is None or (self.output_price is None and usage.output_tokens):
            return None
        cached_price = self.input_price if self.cached_price is None else self.cached_price
        fresh = usage.input_tokens - usage.cached_tokens
        answer = usage.output_tokens * (self.output_price or 0.0)
        return (fresh * self.input_price + usage.cached_tokens * cached_price + answer) / 1e6


@dataclass(slots=True, eq=False)
class Attempt:
    """One try of a call at a target. The backend records what it learns as it reads, so that an abandoned stream keeps
    what it has so far."""

    number: int
    """1 for the first try of the call."""
    target: Target
    """Where it went."""
    started: float | None = None
    """When the request was handed to the backend; None while it waits for its turn, and where it never got one."""
    first_chunk: float | None = None
    """When a stream first said something; None for whole answers."""
    finished: float | None = None
    """When it ended."""
    paused_seconds: float = 0.0
    """Time the consumer of the stream took between chunks: not the provider's."""
    chunks: int = 0
    """How many chunks of a stream were handed over, from the first that says something on; 0 or less before it."""
    timeout_seconds: float | None = None
    """What was left to it when it was sent: for a whole answer, or to the first chunk and then to each next one."""
    usage: Usage | None = None
    """Tokens, once known."""
    reported_cost: float | None = None
    """USD as the framework itself priced it; used where the target has no prices."""
    model: str | None = None
    """The model that answered, where the provider said."""
    finish_reason: str | None = None
    """Why the provider stopped. An answer that is left after this is complete."""
    headers: Mapping[str, str] | None = None
    """The provider's response headers, lower-case, where the framework shows them."""
    retry_after: float | None = None
    """Seconds the provider asked to stay away, with an error."""
    kind: ErrorKind | None = None
    """What kind of error ended it."""
    error: BaseException | None = None
    """The error itself, only while ``post_attempt`` runs."""
    outcome: Outcome | None = None
    """How it ended; None while it runs."""
    state: dict[object, Any] = field(default_factory=dict)
    """A place for each plugin, keyed by the plugin."""
    on_first_chunk: list[Callable[[], object]] | None = None
    """What ``pre_attempt`` hooks want called once a stream has said something; None: nothing."""
    on_chunk: list[Callable[[Any], object]] | None = None
    """What ``pre_attempt`` hooks want called with each chunk of a stream as it comes, to look at; None: nothing."""
    request_headers: dict[str, str] | None = None
    """Headers that ``pre_attempt`` hooks want sent with the request, by backends that can; None: nothing."""
    heard: int = 0
    """The engine's: how many ``pre_attempt`` hooks have begun to run."""

    @property
    def duration(self) -> float | None:
        """Seconds from sending to the end, less the consumer's pauses; None where it was not sent or runs on."""
        if self.started is None or self.finished is None:
            return None
        return max(0.0, self.finished - self.started - self.paused_seconds)  # the difference of sums may be below 0

    @property
    def time_to_first_chunk(self) -> float | None:
        """Seconds from sending to the first chunk that says something; None for whole answers."""
        return None if self.started is None or self.first_chunk is None else self.first_chunk - self.started

    @property
    def cost(self) -> float | None:
        """USD by the target's prices, else as reported; None where it is unknown."""
        priced = None if self.usage is None else self.target.cost(self.usage)
        return self.reported_cost if priced is None else priced


@dataclass(slots=True, eq=False)
class Call:
    """One request, as the application made it."""

    messages: Any = field(default=None, repr=False)
    """The prompt in the framework's own form; the engine never looks inside."""
    model: str | None = None
    """The model asked for; None: any target will do."""
    operation: str = "chat"
    """``chat``, ``text_completion``, ``embeddings`` … (the GenAI conventions' words)."""
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The sampling and format parameters, tools included."""
    user: str | None = None
    """Who asks, for limits and isolation."""
    tenant: str | None = None
    """On whose behalf."""
    stream: bool = False
    """Whether the answer is wanted in chunks. The kit's ``stream`` and ``astream`` set it."""
    answerable: bool = True
    """Whether plugins can answer it or let it share an upstream. The kit's ``begin`` and ``abegin`` say no: a framework
    sends it by itself."""
    deadline: float | None = None
    """When, on the kit's clock, the caller loses interest."""
    timeout_seconds: float | None = None
    """How long one attempt may take: for a whole answer, or to the first chunk and then to each next one."""
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Whatever the application wants plugins to know."""
    id: str = field(default_factory=new_id)
    """The request id: taken from the caller or made."""
    attempts: list[Attempt] = field(default_factory=list)
    """Its tries so far. A follower of a shared answer has none."""
    outcome: Outcome | None = None
    """How it ended; None while it runs."""
    response: Response | None = None
    """What it ended well with (who reads a stream finds it here)."""
    state: dict[object, Any] = field(default_factory=dict, repr=False)
    """A place for each plugin, keyed by the plugin."""
    share: Any = field(default=None, repr=False)
    """The engine's: the ``Share`` a plugin asked for."""
    begun: bool = False
    """The engine's: whether it was handed to a kit."""
    heard: int = 0
    """The engine's: how many ``pre_request`` hooks have begun to run."""


@dataclass(slots=True, eq=False)
class Response:
    """The result of a successful call."""

    raw: Any = field(default=None, repr=False)
    """The framework's own object; None for streams, whose chunks went to the caller."""
    attempt: Attempt | None = None
    """The attempt that answered: the call's own, or that of the call it shares with."""
    shared: str | None = None
    """The id of the call whose attempt answered; None where it is this call's own."""

    @property
    def usage(self) -> Usage | None:
        """The tokens of the answer, whoever paid for them."""
        return None if self.attempt is None else self.attempt.usage

    @property
    def cost(self) -> float | None:
        """USD this call cost: nothing where no attempt of its own answered, None where it is unknown."""
        return 0.0 if self.shared is not None or self.attempt is None else self.attempt.cost

    @property
    def model(self) -> str | None:
        """The model that answered."""
        return None if self.attempt is None else self.attempt.model or self.attempt.target.model

    @property
    def finish_reason(self) -> str | None:
        """Why the provider stopped."""
        return None if self.attempt is None else self.attempt.finish_reason
