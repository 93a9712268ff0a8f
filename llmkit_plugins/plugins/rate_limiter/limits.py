"""What is limited: a :class:`Limit` says how much of what, per which keys, and for which calls."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from operator import attrgetter
from typing import Any, Literal, get_args

from llmkit_plugins.errors import ConfigError
from llmkit_plugins.plugins.rate_limiter.rate import Rate, positive

Meter = Literal["concurrency", "requests", "tokens", "input_tokens", "output_tokens", "cost"]
METERS: tuple[Meter, ...] = get_args(Meter)

Known = tuple[str | None, str | None, str | None, str | None, str | None]
"""What is known about a call, in the order of :data:`KEYS`; None: not known."""
KEYS = ("provider", "model", "user", "tenant", "target")
OF_THE_ATTEMPT = frozenset({"provider", "model", "target"})
"""Known only once a target is chosen, so limits by these are charged per attempt."""


@dataclass(slots=True)
class Facts:
    """What limits are keyed and matched by: what is known about a call, and its metadata."""

    provider: str | None = None
    model: str | None = None
    user: str | None = None
    tenant: str | None = None
    target: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


Key = Callable[[Facts], Hashable | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """A quota, counted per key: ``Limit(requests="60/min", tokens="90_000/min", per=("user",))``.

    Each rate is a separate bucket, and all of them must admit a call. A limit does not apply to a call that lacks one
    of the keys in *per*. Raises ``ConfigError`` that names what is wrong.
    """

    requests: str | None = None
    """Calls: ``"100/s"``, ``"500/10s"``, ``"3/min"``."""
    tokens: str | None = None
    """Input and output tokens together: ``"90_000/min"``."""
    input_tokens: str | None = None
    """Tokens of the prompt."""
    output_tokens: str | None = None
    """Tokens of the answer."""
    cost: str | None = None
    """US dollars: ``"5 USD/day"``."""
    concurrency: int | None = None
    """Calls in flight at once."""
    per: Sequence[str] = ()
    """Counted separately for each ``provider``, ``model``, ``target``, ``user``, ``tenant``, ``metadata.<key>`` or each
    combination of several; of nothing: for all together."""
    burst: float | None = None
    """At once after a rest, in the unit of the one rate this limit has; one period's worth if not given."""
    match: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    """Only for calls whose keys are one of these: ``{"model": "gpt-4o*", "tenant": ["a", "b"]}``. ``*`` and ``?``
    stand for any characters."""
    name: str = ""
    """Its name in errors and metrics; by default, its own text."""

    def __post_init__(self) -> None:
        per = (self.per,) if isinstance(self.per, str) else self.per
        if not _texts(per):
            raise ConfigError(f"{per!r} is not valid", key="per", right='a list of keys, as in ["user"]')
        object.__setattr__(self, "per", tuple(per))
        for name in per:
            _check_key("per", name)
        self._check_match()
        rates = self.rates()
        if self.concurrency is not None and (type(self.concurrency) is not int or self.concurrency < 1):
            raise ConfigError(
                f"{self.concurrency!r} is not valid", key="concurrency", right="a whole number, at least 1"
            )
        if not rates and self.concurrency is None:
            raise ConfigError("a limit limits nothing", key="limit", right=f"give one of {', '.join(sorted(METERS))}")
        if self.burst is not None and len(rates) != 1:
            what = (
                f"it is not clear which of {', '.join(rates)} it is of" if rates else "there is no rate it could be of"
            )
            raise ConfigError(what, key="burst", right="a limit of its own for the rate that has a burst")

    def _check_match(self) -> None:
        if not isinstance(self.match, Mapping):
            raise ConfigError(f"{self.match!r} is not valid", key="match", right='a table, as in { model = "gpt-4o*" }')
        for name, value in self.match.items():
            _check_key("match", name)
            if not isinstance(value, str) and not (value and _texts(value)):
                raise ConfigError(f"{value!r} is not valid", key=f"match.{name}", right="a text, or a list of texts")

    @classmethod
    def per_provider(cls) -> Limit:
        """100 requests a second for each provider."""
        return cls(requests="100/s", per=("provider",))

    @classmethod
    def per_model(cls) -> Limit:
        """10 requests a second for each model."""
        return cls(requests="10/s", per=("model",))

    @classmethod
    def per_user(cls) -> Limit:
        """1 request a second for each user."""
        return cls(requests="1/s", per=("user",))

    def rates(self) -> dict[Meter, Rate]:
        """Its rates, by what they count."""
        burst = None if self.burst is None else positive("burst", self.burst)
        texts = {meter: getattr(self, meter) for meter in METERS if meter != "concurrency"}
        return {meter: Rate.parse(text, meter, burst) for meter, text in texts.items() if text is not None}

    @property
    def of_the_attempt(self) -> bool:
        """Whether it is charged for each attempt at a target, rather than once for each caller."""
        return not OF_THE_ATTEMPT.isdisjoint([*self.per, *self.match])

    @property
    def plain(self) -> bool:
        """Whether it applies to every call that has its keys, all of which are in :data:`KEYS`."""
        return set(self.per) <= set(KEYS) and not self.match

    def title(self, meter: Meter) -> str:
        """The name in errors and metrics of the limit on *meter*: ``requests 60/min per user``."""
        says = f"{meter} {getattr(self, meter)}" + (f" per {' and '.join(self.per)}" if self.per else "")
        several = len(self.rates()) + (self.concurrency is not None) > 1
        return (f"{self.name} ({meter})" if several else self.name) if self.name else says

    def key(self) -> Key:
        """A function that maps facts to the key they are counted under; None: the limit does not apply."""
        parts = [_getter(name) for name in self.per]
        asked = [(_getter(name), _pattern(value)) for name, value in self.match.items()]

        def key(facts: Facts) -> Hashable | None:
            for get, matches in asked:
                value = get(facts)
                if value is None or not matches(str(value)):
                    return None
            values = tuple([get(facts) for get in parts])
            return None if None in values else values[0] if len(values) == 1 else values

        return key


def _texts(value: Any) -> bool:
    return isinstance(value, Collection) and all(isinstance(text, str) for text in value)


def _check_key(where: str, name: str) -> None:
    if name in KEYS or (name.startswith("metadata.") and name != "metadata."):
        return
    near = difflib.get_close_matches(name, KEYS, n=1)
    known = f"did you mean {near[0]}?" if near else f"one of {', '.join(KEYS)} and metadata.<key>"
    raise ConfigError(f"{name!r} is no key", key=where, right=known)


def _getter(name: str) -> Callable[[Facts], str | None]:
    if not name.startswith("metadata."):
        return attrgetter(name)
    field_name = name.removeprefix("metadata.")

    def get(facts: Facts) -> str | None:
        value = facts.metadata.get(field_name)
        return None if value is None else str(value)

    return get


def _pattern(value: str | Sequence[str]) -> Callable[[str], Any]:
    patterns = [value] if isinstance(value, str) else list(value)
    return re.compile("|".join(translate(pattern) for pattern in patterns)).match
