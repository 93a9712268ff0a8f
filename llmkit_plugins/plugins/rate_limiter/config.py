"""The settings of the rate limiter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from llmkit_plugins.errors import ConfigError
from llmkit_plugins.plugins.rate_limiter.admission import OnLimit
from llmkit_plugins.plugins.rate_limiter.limits import Limit
from llmkit_plugins.settings import Settings, as_one, nearest


class RateLimiterConfig(Settings):
    """Settings of the rate limiter plugin."""

    limits: list[Limit] = Field(
        default=[], description='The limits, each a table such as { requests = "60/min", per = ["user"] }.'
    )
    on_limit: OnLimit = Field(
        default="reject",
        description='Over a limit: "reject" raises RateLimited, "wait" queues the call, "shadow" only counts it.',
    )
    max_wait_seconds: float = Field(
        default=30.0,
        gt=0,
        description='With on_limit = "wait": a call that would have to wait longer is refused immediately.',
    )
    lease_seconds: float = Field(
        default=600.0,
        gt=0,
        description="Seconds after which a concurrency permit that was never released is reclaimed.",
    )
    max_keys: int = Field(default=1_000_000, ge=1, description="The most keys each limit keeps track of.")
    learn_from_providers: bool = Field(
        default=True, description="Respect the limits that providers report (x-ratelimit-*, Retry-After, 429)."
    )

    store: str | None = Field(
        default=None,
        repr=False,
        description='The Redis through which processes share these limits: "redis://host:6379/0"; if not given, '
        "each process enforces them alone.",
    )

    @field_validator("store")
    @classmethod
    def _a_redis(cls, store: str | None) -> str | None:
        if store is None:
            return None
        try:
            from llmkit_plugins.stores.redis import place_of
        except ImportError as missing:
            # the error for a private value says only what would be right
            needed = "redis has to be installed: pip install 'llmkit-plugins[redis]'"
            raise ConfigError("redis is not installed", right=needed) from missing
        try:
            place_of(store)
        except ValueError:
            raise ConfigError("it is no URL of Redis", right="redis://host:6379/0, rediss:// or unix://") from None
        return store

    @field_validator("limits", mode="before")
    @classmethod
    def _each_a_limit(cls, limits: Any) -> Any:
        if not isinstance(limits, list | tuple):
            return limits
        made, wrong = [], []
        for place, given in enumerate(limits):
            try:
                made.append(_limit(given, f"[{place}]"))
            except ConfigError as error:
                wrong.append(error)
        if wrong:
            raise as_one(wrong)
        return made


def _limit(given: Any, place: str) -> Any:
    if not isinstance(given, Mapping):
        return given
    known = [field.name for field in dataclasses.fields(Limit)]
    for name in given:
        if name not in known:
            raise ConfigError("there is no such setting", key=f"{place}.{name}", right=nearest(str(name), known))
    try:
        return Limit(**given)
    except ConfigError as error:
        raise ConfigError(error.what, key=f"{place}.{error.key}", right=error.right) from None
