"""The plugin: its hooks only delegate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmkit_plugins.call import Call, Response
from llmkit_plugins.hookspecs import hookimpl
from llmkit_plugins.plugins.multiplexer.config import MultiplexerConfig
from llmkit_plugins.plugins.multiplexer.multiplexer import MultiplexerStats, StreamingMultiplexer
from llmkit_plugins.plugins.multiplexer.retained import Kept
from llmkit_plugins.steps import Answer, Share

if TYPE_CHECKING:
    from llmkit_plugins.kit import LLMKit


class MultiplexerPlugin:
    """Serves identical calls in flight from one upstream request. *settings* are those of :class:`MultiplexerConfig`.

    Calls are kept apart by tenant and by ``credential``, in their parameters or metadata: a fingerprint of whatever
    else they are sent with (key, client, account), set by the integrations. Raises ``ConfigError``.
    """

    Config = MultiplexerConfig
    name = "multiplexer"

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self.multiplexer = StreamingMultiplexer(**settings)

    @property
    def config(self) -> MultiplexerConfig:
        """The settings."""
        return self.multiplexer.config

    def attach(self, kit: LLMKit) -> None:
        """Share what is under way in *kit*."""
        self.multiplexer = StreamingMultiplexer(flights=kit.flights, **self._settings)

    def stats(self) -> MultiplexerStats:
        """What is under way and what was saved."""
        return self.multiplexer.stats()

    def close(self) -> None:
        """Forget what was retained."""
        self.multiplexer.close()

    @hookimpl
    def llmkit_pre_request(self, call: Call) -> Share | Answer | None:
        if not call.answerable:
            return None
        decision = self.multiplexer.decide(call)
        return decision.answer(stream=call.stream) if isinstance(decision, Kept) else decision

    @hookimpl
    def llmkit_post_response(self, call: Call, response: Response) -> None:  # noqa: ARG002 - a tenth of a µs faster
        if response.shared is not None and response.attempt is not None:
            self.multiplexer.saved(response.attempt)
