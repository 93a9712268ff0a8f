"""Takes from several buckets at once, all or none, in code unrolled for their number, because a loop is not atomic.

A loop jumps backward and a function call enters a function; CPython may switch threads at both (see :mod:`.atomic`).
So, as ``dataclasses`` does for ``__init__``, the function is generated as text, one bucket after the other, and
compiled. For two rates, each with a table of keys, a step (what is taken, in seconds) and a room (how far ahead of now
the state may be beforehand, extended by *patience* if the ticket may wait)::

    def take(ticket, patience, key0, key1, step0, step1):
        room0 = depth0 - step0 + patience
        room1 = depth1 - step1 + patience
        now = clock()
        young0 = table0.young
        young1 = table1.young
        if key0 in young0 and key1 in young1:
            state0 = young0[key0]
            if state0 < now:
                state0 = now
            elif state0 - now > room0:
                return None
            (the same for 1)
            young0[key0] = state0 = state0 + step0
            young1[key1] = state1 = state1 + step1
            return state0, state1
        return ()

None is a refusal, ``()`` means that a key is new and has to be adopted first, and any other tuple has the states after
the charge. Permits use the same arithmetic with 0.0 for now, as tokens that are not replenished over time.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache
from types import CodeType
from typing import TYPE_CHECKING, Any

from llmkit_plugins.plugins.rate_limiter.limits import KEYS

if TYPE_CHECKING:
    from llmkit_plugins.clock import Clock
    from llmkit_plugins.plugins.rate_limiter.levels import Level

Take = Callable[..., tuple[float, ...] | None]
Admit = Callable[..., tuple[Hashable, ...] | None]
"""``admit(known, *steps)`` takes a step from every level, one request if none are given, and returns the keys."""
HasRoom = Callable[..., bool]
"""``has_room(known, *steps)`` tells whether the steps would be admitted now."""

_KNOWN = ", ".join(KEYS)


def unrolled(levels: Sequence[Level], clock: Clock) -> Take:
    """``take(ticket, patience, *keys, *steps)`` for *levels*. Taking a permit sets ``ticket.held``."""
    numbers = range(len(levels))
    arguments = ", ".join(f"{name}{n}" for name in ("key", "step") for n in numbers)
    states = ", ".join(f"state{n}" for n in numbers)
    after = [] if all(level.timed for level in levels) else ["ticket.held = True"]
    lines = [
        f"def take(ticket, patience, {arguments}):",
        *[f"    room{n} = depth{n} - step{n} + patience" for n in numbers],
        *_body(levels, [f"key{n}" for n in numbers], [*after, f"return {states},"], ["return None"] * len(levels)),
        "    return ()",
    ]
    return _function("take", lines, levels, clock, _depths(levels))


def unrolled_check(
    levels: Sequence[Level], clock: Clock, keys: Sequence[Sequence[str]], otherwise: Callable[..., bool]
) -> Take:
    """``check_and_consume(provider, model, ...)`` for *levels* that count requests; *keys* are names of its arguments.

    It calls *otherwise* if a key is new or missing. Three levels cost 0.3 µs; with a ticket they would cost 1 µs.
    """
    names, tuples = _named(keys)
    refused = [f"level{n}.refused += 1; return False" for n in range(len(levels))]
    known = _KNOWN.replace(",", "=None,")
    lines = [
        f"def check_and_consume({known}=None, metadata=None, input_tokens=0, output_tokens=0, cost=0.0):",
        *tuples,
        *_body(levels, names, ["return True"], refused),
        f"    return otherwise({_KNOWN}, metadata, input_tokens, output_tokens, cost)",
    ]
    return _function("check_and_consume", lines, levels, clock, {**_ones(levels), "otherwise": otherwise})


def unrolled_admit(levels: Sequence[Level], clock: Clock, keys: Sequence[Sequence[str]]) -> Admit:
    """``admit`` for *levels* that need no permits; *keys* name what they are keyed by.

    It returns None if a level refuses, or a key is new or missing; the caller then takes the slow path.
    """
    names, tuples = _named(keys)
    body = _body(levels, names, [f"return {', '.join(names)},"], ["return None"] * len(levels)) if levels else ()
    rooms = [f"    room{n} = depth{n} - step{n}" for n in range(len(levels))]
    lines = [*_known("admit", levels, keys), *tuples, *rooms, *body, f"    return {None if levels else ()}"]
    return _function("admit", lines, levels, clock, {**_depths(levels), **_ones(levels)})


def unrolled_room(levels: Sequence[Level], clock: Clock, keys: Sequence[Sequence[str]]) -> HasRoom:
    """``has_room`` for *levels*; *keys* name what they are keyed by. A key that is not in a table has room."""
    names, tuples = _named(keys)
    lines = [*_known("has_room", levels, keys), *tuples]
    if any(level.timed for level in levels):
        lines.append("    now = clock()")
    for n, (level, key) in enumerate(zip(levels, names, strict=True)):
        ahead = f"state{n} - now" if level.timed else f"state{n}"
        lines += [
            f"    young{n} = table{n}.young",
            f"    state{n} = young{n}[{key}] if {key} in young{n} else table{n}.state({key})",
            f"    if {ahead} > depth{n} - step{n}:",
            "        return False",
        ]
    return _function("has_room", [*lines, "    return True"], levels, clock, {**_depths(levels), **_ones(levels)})


def _known(name: str, levels: Sequence[Level], keys: Sequence[Sequence[str]]) -> list[str]:
    """The first lines of a function *name* that takes ``known`` facts and unpacks those in *keys*."""
    arguments = ", ".join(["known", *[f"step{n}=step{n}" for n in range(len(levels))]])
    needed = {name for key in keys for name in key}
    return [
        f"def {name}({arguments}):",
        *[f"    {key} = known[{place}]" for place, key in enumerate(KEYS) if key in needed],
    ]


def _named(keys: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """The variable names of the keys, and the lines that build composite keys."""
    names = [key[0] if len(key) == 1 else f"key{n}" for n, key in enumerate(keys)]
    # Build tuples before reading the states: it may trigger the garbage collector, which may run any code.
    return names, [f"    key{n} = ({', '.join(key)})" for n, key in enumerate(keys) if len(key) != 1]


def _depths(levels: Sequence[Level]) -> dict[str, float]:
    return {f"depth{n}": level.depth for n, level in enumerate(levels)}


def _ones(levels: Sequence[Level]) -> dict[str, float]:
    """The step of one request at each level, and the room that leaves."""
    steps = {f"step{n}": level.interval for n, level in enumerate(levels)}
    return {**steps, **{f"room{n}": level.depth - level.interval for n, level in enumerate(levels)}}


def _body(
    levels: Sequence[Level], keys: Sequence[str], admitted: Sequence[str], refused: Sequence[str]
) -> Iterator[str]:
    yield "    now = clock()"
    for n in range(len(levels)):
        yield f"    young{n} = table{n}.young"
    yield f"    if {' and '.join(f'{key} in young{n}' for n, key in enumerate(keys))}:"
    for n, (level, key) in enumerate(zip(levels, keys, strict=True)):
        base = "now" if level.timed else "0.0"
        yield f"        state{n} = young{n}[{key}]"
        yield f"        if state{n} < {base}:"
        yield f"            state{n} = {base}"
        yield f"        elif state{n} - {base} > room{n}:"
        yield f"            {refused[n]}"
    for n, key in enumerate(keys):
        yield f"        young{n}[{key}] = state{n} = state{n} + step{n}"
    yield from (f"        {line}" for line in admitted)


def _function(
    name: str, lines: Sequence[str], levels: Sequence[Level], clock: Clock, names: dict[str, Any]
) -> Callable[..., Any]:
    """Compile *lines* and return the function *name*; *names* are its globals."""
    tables = {f"table{n}": level.table for n, level in enumerate(levels)}
    counted = {f"level{n}": level for n, level in enumerate(levels)}
    namespace = {"clock": clock, **tables, **counted, **names}
    exec(_compiled("\n".join(lines) + "\n"), namespace)  # noqa: S102  # generated text: contains no user-supplied names or values
    function: Callable[..., Any] = namespace[name]
    return function


@lru_cache(maxsize=256)
def _compiled(source: str) -> CodeType:
    """Compile *source* so that tracebacks and debuggers can show it."""
    name = f"<rate limits, {len(source)} characters, {hash(source):x}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    return compile(source, name, "exec")
