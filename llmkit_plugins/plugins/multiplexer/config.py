"""The settings of the multiplexer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmkit_plugins.settings import Settings


class MultiplexerConfig(Settings):
    """Settings of the multiplexer: who shares with whom, for how long, and how much is kept."""

    scope: Literal["tenant", "user"] = Field(
        default="tenant",
        description="Who shares an answer: callers of one tenant, or only those of one user (a call without a "
        "user is then never shared).",
    )
    share_sampled: bool = Field(
        default=True,
        description="Share calls whose answer would differ each time: those without a seed, at any temperature "
        "other than 0 (if none is given, the provider's default applies).",
    )
    ignored_params: frozenset[str] = Field(
        default=frozenset(),
        description="Parameters that do not change the answer, besides the known ones: request ids, trace "
        "headers, callbacks, timeouts, metadata.",
    )
    metadata_keys: frozenset[str] = Field(
        default=frozenset(), description="Metadata that changes the answer, because a plugin routes by it."
    )
    retain_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How long a finished answer serves identical calls that arrive late; 0 disables it.",
    )
    max_retained_answers: int = Field(
        default=1_000, ge=1, description="The most finished answers kept; the least recently used is evicted first."
    )
    max_retained_bytes: int = Field(
        default=64 * 2**20, ge=1, description="The most memory they may take together, by estimate."
    )
    max_age_seconds: float = Field(
        default=300.0,
        gt=0,
        description="An upstream older than this accepts no more callers; the next one starts another.",
    )
    max_chunks_per_stream: int = Field(
        default=20_000, ge=1, description="The same for an upstream that has produced more chunks than this."
    )
    max_bytes_per_stream: int = Field(
        default=16 * 2**20,
        ge=1,
        description="The same for an upstream whose chunks take more bytes than this, by estimate.",
    )
    max_streams: int = Field(
        default=10_000, ge=1, description="The most upstreams shared at once; beyond that, calls are not shared."
    )
