"""The data types that travel through the hooks. Times are in seconds on the kit's clock, money is in US dollars."""

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
    """The part of the input read from the provider's cache."""
    reasoning_tokens: int = 0
    """The part of the output spent on reasoning."""

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
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
    """The provider's name for the model."""
    input_price: float | None = None
    """USD per million input tokens; None: unknown, 0: free."""
    output_price: float | None = None
    """USD per million output tokens."""
    cached_price: float | None = None
    """USD per million input tokens read from the provider's cache; None: the input price."""
    weight: float = 1.0
    """Share of the traffic among equally good targets."""
    serves: frozenset[str] | None = None
    """The requested models that it can answer; None: any."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Anything plugins need to know: region, tags, limits."""

    def __post_init__(self) -> None:
        for name in ("input_price", "output_price", "cached_price", "weight"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value < inf):
                key = f"targets.{self.name}.{name}"
                raise ConfigError(f"{value!r} is not valid", key=key, right="a number, 0 or more")

    def cost(self, usage: Usage) -> float | None:
        """USD for *usage*, or None if a relevant price is unknown."""
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
    """Where it goes."""
    started: float | None = None
    """When the request was handed to the backend; None while it is queued, or if it was never sent."""
    first_chunk: float | None = None
    """When a stream first produced content; None for whole answers."""
    finished: float | None = None
    """When it ended."""
    paused_seconds: float = 0.0
    """Time the stream's consumer spent between chunks, which is not the provider's."""
    chunks: int = 0
    """How many chunks of a stream were handed over, from the first with content on; 0 or less before it."""
    timeout_seconds: float | None = None
    """The time it had left when it was sent: for a whole answer, or for the first chunk and then each further one."""
    usage: Usage | None = None
    """Tokens, once known."""
    reported_cost: float | None = None
    """USD as computed by the framework; used if the target has no prices."""
    model: str | None = None
    """The model that answered, if the provider reported it."""
    finish_reason: str | None = None
    """Why the provider stopped. An answer abandoned after this is complete."""
    headers: Mapping[str, str] | None = None
    """The provider's response headers, lower-case, if the framework exposes them."""
    retry_after: float | None = None
    """Seconds the provider asked to be left alone, with an error."""
    kind: ErrorKind | None = None
    """The kind of error that ended it."""
    error: BaseException | None = None
    """The error itself, only while ``post_attempt`` runs."""
    outcome: Outcome | None = None
    """How it ended; None while it runs."""
    state: dict[object, Any] = field(default_factory=dict)
    """A slot for each plugin, keyed by the plugin."""
    on_first_chunk: list[Callable[[], object]] | None = None
    """Functions that ``pre_attempt`` hooks want called once a stream has produced content; None: none."""
    on_chunk: list[Callable[[Any], object]] | None = None
    """Functions that ``pre_attempt`` hooks want called with each chunk as it arrives; None: none."""
    request_headers: dict[str, str] | None = None
    """Headers that ``pre_attempt`` hooks want sent with the request, by backends that can; None: none."""
    heard: int = 0
    """The engine's: how many ``pre_attempt`` hooks have begun to run."""

    @property
    def duration(self) -> float | None:
        """Seconds from sending to the end, minus the consumer's pauses; None if it was not sent or still runs."""
        if self.started is None or self.finished is None:
            return None
        return max(0.0, self.finished - self.started - self.paused_seconds)  # the difference of sums may be below 0

    @property
    def time_to_first_chunk(self) -> float | None:
        """Seconds from sending to the first chunk with content; None for whole answers."""
        return None if self.started is None or self.first_chunk is None else self.first_chunk - self.started

    @property
    def cost(self) -> float | None:
        """USD by the target's prices, or else as reported; None if unknown."""
        priced = None if self.usage is None else self.target.cost(self.usage)
        return self.reported_cost if priced is None else priced


@dataclass(slots=True, eq=False)
class Call:
    """One request, as the application made it."""

    messages: Any = field(default=None, repr=False)
    """The prompt in the framework's own form; the engine never inspects it."""
    model: str | None = None
    """The requested model; None: any target will do."""
    operation: str = "chat"
    """``chat``, ``text_completion``, ``embeddings`` … (the GenAI conventions' words)."""
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The sampling and format parameters, tools included."""
    user: str | None = None
    """The caller, for limits and isolation."""
    tenant: str | None = None
    """On whose behalf the call is made."""
    stream: bool = False
    """Whether the answer is wanted in chunks. The kit's ``stream`` and ``astream`` set it."""
    answerable: bool = True
    """Whether plugins can answer it or let it share an upstream. False for the kit's ``begin`` and ``abegin``: the
    framework sends the request itself."""
    deadline: float | None = None
    """When, on the kit's clock, the caller gives up."""
    timeout_seconds: float | None = None
    """How long one attempt may take: for a whole answer, or for the first chunk and then each further one."""
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Anything the application wants plugins to know."""
    id: str = field(default_factory=new_id)
    """The request id: taken from the caller or generated."""
    attempts: list[Attempt] = field(default_factory=list)
    """Its attempts so far. A follower of a shared answer has none."""
    outcome: Outcome | None = None
    """How it ended; None while it runs."""
    response: Response | None = None
    """The response, if it succeeded (for streams, this is the only place to find it)."""
    state: dict[object, Any] = field(default_factory=dict, repr=False)
    """A slot for each plugin, keyed by the plugin."""
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
    """The attempt that answered: the call's own, or that of the call it shared with."""
    shared: str | None = None
    """The id of the call whose attempt answered; None if it is this call's own."""

    @property
    def usage(self) -> Usage | None:
        """The tokens of the answer, whoever paid for them."""
        return None if self.attempt is None else self.attempt.usage

    @property
    def cost(self) -> float | None:
        """USD this call cost: 0 if no attempt of its own answered, None if unknown."""
        return 0.0 if self.shared is not None or self.attempt is None else self.attempt.cost

    @property
    def model(self) -> str | None:
        """The model that answered."""
        return None if self.attempt is None else self.attempt.model or self.attempt.target.model

    @property
    def finish_reason(self) -> str | None:
        """Why the provider stopped."""
        return None if self.attempt is None else self.attempt.finish_reason
