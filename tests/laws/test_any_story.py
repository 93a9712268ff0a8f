"""All laws at once: whatever targets do, plugins say and callers want, each story is told to its end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmkit_plugins import Ask, Call, LLMKit, ProviderFailure, Refused, Share, Target, UpstreamLost, Wait
from llmkit_plugins.engine.telling import settle
from llmkit_plugins.testing import Failure, Last, ManualClock, Pause, Recorder, ScriptedBackend

SECONDS = st.sampled_from([0.0, 1.0, 2.0, 5.0])
LINES = st.one_of(
    st.sampled_from(["", "x", "y", "z", Last("!")]),
    SECONDS.map(Pause),
    st.sampled_from(["server", "rate_limit", "bad_request", None]).map(Failure),
)
SCRIPTS = st.fixed_dictionaries({name: st.lists(LINES, max_size=5) for name in "abc"})
SAYINGS = st.sampled_from(["nothing", "wait", "ask", "refuse", "bug", "share"])


@dataclass
class Caller:
    """What one caller wants: when it comes, when it loses interest, after how many chunks it leaves."""

    comes: float
    leaves: float | None
    deadline: float | None
    timeout: float | None
    chunks: int | None


CALLERS = st.builds(
    Caller,
    SECONDS,
    st.none() | st.sampled_from([0.0, 0.5, 1.0, 3.0, 6.0]),
    st.none() | st.sampled_from([1.5, 4.0, 9.0]),
    st.none() | st.sampled_from([0.5, 2.0]),
    st.none() | st.integers(0, 3),
)


def saying(what):
    """A hook that says *what*."""

    def hook(call):
        if what == "wait":
            yield Wait(1.0)
        if what == "ask":
            yield Ask(lambda: None, lambda: asyncio.sleep(1.0))
        if what == "refuse":
            raise Refused("no", 1.0)
        if what == "bug":
            raise ZeroDivisionError
        return Share("key") if what == "share" else None

    return hook


async def read(kit, backend, caller, call, streamed, got):
    await asyncio.sleep(caller.comes)
    with suppress(Refused, Failure, ProviderFailure, UpstreamLost, TimeoutError):
        async with asyncio.timeout(caller.leaves):
            if not streamed:
                got.append((await kit.acall(call, backend)).raw)
                return
            stream = kit.astream(call, backend)
            async for chunk in stream:
                got.append(chunk)
                if len(got) == caller.chunks:
                    break
            await stream.aclose()


def words(script):
    """What a target says before it fails, if it does."""
    said = []
    for line in script:
        if isinstance(line, Failure):
            break
        if not isinstance(line, Pause):
            said.append(line.text if isinstance(line, Last) else line)
    return said


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=SCRIPTS,
    asked=SAYINGS,
    tried=SAYINGS,
    callers=st.lists(CALLERS, min_size=1, max_size=4),
    streamed=st.booleans(),
)
def test_any_story(plugin, script, asked, tried, callers, streamed):
    """Everybody hears every end once, no task and no upstream is left, and no caller reads from two targets."""
    clock, first, last = ManualClock(), Recorder(), Recorder()
    said = plugin(pre_request=saying(asked), pre_attempt=saying("nothing" if tried == "share" else tried))
    targets = [Target(name, "p", "m") for name in "abc"]
    kit = LLMKit([first, said, last], targets, clock=clock)
    backend = ScriptedBackend(script)
    calls = [Call("hi", deadline=caller.deadline, timeout_seconds=caller.timeout) for caller in callers]
    answers: list[list[str]] = [[] for _ in callers]

    async def scenario():
        readers = [read(kit, backend, *each, streamed, got) for *each, got in zip(callers, calls, answers, strict=True)]
        await asyncio.gather(*readers)
        for _ in range(12):
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    clock.run(scenario())
    settle()
    assert not first.open
    assert not last.open
    assert not kit.flights
    assert backend.opened == backend.closed
    for call, got in zip(calls, answers, strict=True):
        assert_one_target(call, got, script, streamed)


def assert_one_target(call, got, script, streamed):
    """What a caller got is the beginning of what one target said, and all of it where it was not left."""
    said = [words(lines) if streamed else ["".join(words(lines))] for lines in script.values()]
    assert any(got == words[: len(got)] for words in said)
    assert len([attempt for attempt in call.attempts if attempt.outcome == "ok"]) <= 1
    if call.outcome == "error" and call.attempts and call.attempts[-1].first_chunk is None:
        assert not got
    for attempt in call.attempts:
        assert attempt.outcome is not None
        assert attempt.error is None
        assert (attempt.kind is None) or attempt.outcome == "error"
