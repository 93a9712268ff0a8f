"""The streaming multiplexer: identical calls in flight become one upstream request."""

from __future__ import annotations

from llmkit_plugins.plugins.multiplexer.config import MultiplexerConfig
from llmkit_plugins.plugins.multiplexer.multiplexer import MultiplexerStats, StreamingMultiplexer
from llmkit_plugins.plugins.multiplexer.plugin import MultiplexerPlugin

__all__ = ["MultiplexerConfig", "MultiplexerPlugin", "MultiplexerStats", "StreamingMultiplexer"]
