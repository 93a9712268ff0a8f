"""What can be set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmkit_plugins.settings import Settings


class MultiplexerConfig(Settings):
    """Settings of the multiplexer: who shares with whom, for how long, and how much is held."""

    scope: Literal["tenant", "user"] = Field(
        default="tenant",
        description="Who shares an answer: callers of one tenant, or only those of one user (a call without a user "
        "then goes alone).",
    )
    share_sampled: bool = Field(
        default=True,
        description="Share calls whose answer would differ each time: without a seed, and at any temperature but 0 "
        "(none given is the provider's default).",
    )
    ignored_params: frozenset[str] = Field(
        default=frozenset(),
        description="Parameters that change no answer, besides those that are known: request ids, trace headers, "
        "callbacks, timeouts, metadata.",
    )
    metadata_keys: frozenset[str] = Field(
        default=frozenset(), description="Metadata that changes the answer, because a plugin routes by it."
    )
    retain_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How long a finished answer serves identical calls that come late; 0: not at all.",
    )
    max_retained_answers: int = Field(
        default=1_000, ge=1, description="Finished answers kept; the one used longest ago goes first."
    )
    max_retained_bytes: int = Field(default=64 * 2**20, ge=1, description="What they may take together, by estimate.")
    max_age_seconds: float = Field(
        default=300.0, gt=0, description="An upstream older than this takes no more callers; the next starts another."
    )
    max_chunks_per_stream: int = Field(default=20_000, ge=1, description="The same for one that has said more chunks.")
    max_bytes_per_stream: int = Field(
        default=16 * 2**20, ge=1, description="The same for one whose chunks take more bytes, by estimate."
    )
    max_streams: int = Field(
        default=10_000, ge=1, description="Upstreams that are shared at once; beyond them each call goes alone."
    )
