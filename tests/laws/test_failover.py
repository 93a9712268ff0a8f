"""Law 4: failover is invisible before the first chunk that says something, and there is none after it."""

from __future__ import annotations

import asyncio

import pytest

from llmkit_plugins import Backend, Call, EmptyAnswer, NoTarget, RateLimited, Refused, Target, UpstreamLost
from llmkit_plugins.testing import Failure, Last

FAILED_OVER = {"request": 1, "attempt": 2, "attempt error": 1, "attempt ok": 1, "request ok": 1}


@pytest.fixture(params=["stream", "astream"])
def streamed(request):
    return request.param


@pytest.mark.parametrize(
    "kind", ["rate_limit", "overloaded", "timeout", "connection", "server", "auth", "not_found", "context_length"]
)
def test_kinds_that_another_target_may_not_have(scene, sharing, mode, kind):
    """The next target answers, and the attempt that failed keeps what kind of error it met."""
    stage = scene(*sharing, script={"a": [Failure(kind, retry_after=7.0)]})
    call = Call("hi")
    assert stage.drive(mode, call) == "abc"
    assert stage.counts == FAILED_OVER
    assert (call.attempts[0].kind, call.attempts[0].retry_after, call.attempts[0].outcome) == (kind, 7.0, "error")


def test_what_was_tried_is_not_tried_again(scene, sharing, plugin, mode):
    """Whatever order the plugins put them in, the next attempt is at a target that had none yet."""
    stage = scene(*sharing, plugin(route=lambda targets: targets[::-1]), script={"b": [Failure("server")]})
    call = Call("hi")
    assert stage.drive(mode, call) == "abc"
    assert [attempt.target.name for attempt in call.attempts] == ["b", "a"]


@pytest.mark.parametrize("kind", ["bad_request", "content_filter", "cancelled", None])
def test_kinds_that_any_target_would_have(scene, sharing, mode, kind):
    """What the caller did wrong, or nobody can classify, is raised at once."""
    stage = scene(*sharing, script={"a": [Failure(kind)]})
    with pytest.raises(Failure) as caught:
        stage.drive(mode)
    assert caught.value.kind == kind
    assert stage.backend.sent == {"a": 1}


def test_a_first_chunk_that_says_nothing(scene, sharing, mode):
    """A stream that dies after an empty role chunk is failed over, and the caller never sees that chunk."""
    stage = scene(*sharing, script={"a": ["", Failure("connection")]})
    assert stage.drive(mode) == "abc"
    assert stage.counts == FAILED_OVER


@pytest.mark.parametrize("broken", [Failure("server"), RateLimited("of another kit")], ids=["failure", "refusal"])
def test_no_failover_after_the_first_chunk_that_says_something(scene, sharing, streamed, broken):
    """Whatever breaks a stream off, a refusal by what the backend asked itself included: the caller hears of it."""
    stage = scene(*sharing, script={"a": ["x", broken]})
    call = Call("hi")
    with pytest.raises(type(broken)):
        stage.drive(streamed, call)
    assert stage.backend.sent == {"a": 1}
    assert len(call.attempts) == 1


def test_what_was_held_back_is_handed_over(scene, sharing, streamed):
    """The role chunk comes first once the stream has said something."""
    stage = scene(*sharing, script={"a": ["", "", "x"]})
    chunks = []

    async def collect():
        async for chunk in stage.kit.astream(Call("hi"), stage.backend):
            chunks.append(chunk)

    if streamed == "stream":
        chunks += stage.kit.stream(Call("hi"), stage.backend)
    else:
        stage.arun(collect)
    assert chunks == ["", "", "x"]


@pytest.mark.parametrize("script", [[], ["", ""]], ids=["no chunk", "only empty ones"])
def test_a_stream_that_says_nothing(scene, sharing, streamed, script):
    """It is a failure of the server: the next target is tried, and where there is none the caller hears of it."""
    stage = scene(*sharing, script={"a": script})
    call = Call("hi")
    assert stage.drive(streamed, call) == "abc"
    assert call.attempts[0].kind == "server"

    stage = scene(*sharing, script={"a": script, "b": script})
    with pytest.raises(EmptyAnswer):
        stage.drive(streamed)


def test_no_failover_after_the_first_chunk(scene, sharing, streamed):
    """What was handed over cannot be taken back: the failure reaches the caller after it."""
    stage = scene(*sharing, script={"a": ["x", Failure("server")]})
    call, chunks = Call("hi"), []

    async def collect():
        async for chunk in stage.kit.astream(call, stage.backend):
            chunks.append(chunk)

    with pytest.raises(Failure):
        if streamed == "stream":
            for chunk in stage.kit.stream(call, stage.backend):
                chunks.append(chunk)
        else:
            stage.arun(collect)
    assert chunks == ["x"]
    assert stage.backend.sent == {"a": 1}
    assert call.outcome == "error"
    assert stage.counts == {"request": 1, "attempt": 1, "attempt error": 1, "request error": 1}


def test_whole_answers_fail_over_however_late(scene, sharing):
    """A whole answer that fails half-way was never handed over."""
    for mode in ("run", "arun"):
        stage = scene(*sharing, script={"a": ["x", Failure("server")]})
        assert stage.drive(mode) == "abc"


def test_failed_over_leaves_no_chain(scene, sharing, mode):
    """The error that ends the call is not chained to that of an earlier attempt."""
    stage = scene(*sharing, script={"a": [Failure("server")], "b": [Failure("overloaded")]})
    with pytest.raises(Failure) as caught:
        stage.drive(mode)
    assert caught.value.__context__ is None


def test_the_last_failure_outranks_a_refusal(scene, sharing, plugin, mode):
    """When some targets failed and others were refused, the caller gets the last provider's error."""

    def refuse_b(attempt):
        if attempt.target.name == "b":
            raise RateLimited("requests", retry_after=2.0)

    stage = scene(*sharing, plugin(pre_attempt=refuse_b), script={"a": [Failure("server")]})
    with pytest.raises(Failure):
        stage.drive(mode)


class Opening(Backend):
    """Raises at once: whatever a way of sending may raise before it returns anything."""

    def __init__(self, *errors):
        self.errors = list(errors)

    def _raise(self):
        if self.errors:
            raise self.errors.pop(0)

    def send(self, call, attempt):
        self._raise()
        return "fine"

    async def asend(self, call, attempt):
        self._raise()
        return "fine"

    def stream(self, call, attempt):
        self._raise()
        return iter(["fine"])

    def astream(self, call, attempt):
        self._raise()
        return Chunks("fine")


class Chunks:
    """A source of chunks that is no generator, and counts how often it was closed."""

    def __init__(self, *script):
        self.script, self.closed = list(script), 0

    def __iter__(self):
        return self

    __aiter__ = __iter__

    def __next__(self):
        if not self.script:
            raise StopIteration
        line = self.script.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    async def __anext__(self):
        if not self.script:
            raise StopAsyncIteration
        line = self.script.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    def close(self):
        self.closed += 1

    async def aclose(self):
        self.closed += 1


class Streaming(Backend):
    """Streams from the sources it is given, one after the other."""

    def __init__(self, *sources):
        self.sources, self.opened = list(sources), []

    def stream(self, call, attempt):
        self.opened.append(self.sources.pop(0))
        return self.opened[-1]

    astream = stream

    def says(self, chunk):
        return chunk != ""


ODD = [StopIteration, StopAsyncIteration, GeneratorExit, KeyboardInterrupt, SystemExit, RecursionError, MemoryError]


@pytest.mark.parametrize("odd", ODD)
def test_odd_exceptions_of_a_provider(scene, sharing, mode, odd):
    """An exception that nobody expects of a provider ends the call, and everybody hears it.

    The caller gets it as it is, or as the cause of another where it cannot pass (a ``StopIteration`` through a
    generator); who shares an upstream that was stopped by one hears that it is lost.
    """
    stage = scene(*sharing)
    stage.backend = Opening(odd())
    with pytest.raises(BaseException) as caught:
        stage.drive(mode)
    assert isinstance(caught.value, (odd, UpstreamLost)) or isinstance(caught.value.__cause__, odd)
    assert stage.counts["request"] == stage.counts["attempt"] == 1


@pytest.mark.parametrize("odd", [GeneratorExit, KeyboardInterrupt, RecursionError])
@pytest.mark.parametrize("before", [[], [""], ["x"]], ids=["at once", "held back", "mid-stream"])
def test_odd_exceptions_of_a_stream(scene, sharing, streamed, odd, before):
    """Whenever a stream raises one, its source is closed and everybody hears the end."""
    stage = scene(*sharing)
    source = Chunks(*before, odd())
    stage.backend = Streaming(source)
    with pytest.raises(BaseException):  # noqa: B017
        stage.drive(streamed)
    assert source.closed


def test_a_cancelled_error_of_the_providers_own(scene, sharing):
    """One that nobody asked this task for is a failure of the connection, and the next target is tried."""
    for mode in ("arun", "astream"):
        stage = scene(*sharing)
        stage.backend = Opening(asyncio.CancelledError())
        call = Call("hi")
        assert stage.drive(mode, call) == "fine"
        assert call.attempts[0].kind == "connection"
        assert isinstance(stage.first.attempts[0].target, Target)


@pytest.mark.parametrize("opening", [[Failure("server")], ["", Failure("server")], [], [""]])
def test_a_source_whose_opening_failed_is_closed(scene, sharing, streamed, opening):
    """A source that is no generator does not close itself: the engine does, before it tries the next target."""
    stage = scene(*sharing)
    failed, good = Chunks(*opening), Chunks("x", "y")
    stage.backend = Streaming(failed, good)
    assert stage.drive(streamed) == "xy"
    assert (failed.closed, good.closed) == (1, 1)


def test_what_closing_raises_hides_nothing(scene, sharing, streamed):
    """A source that cannot even be closed neither spoils a good answer nor prevents the next attempt."""

    class Stuck(Chunks):
        def close(self):
            raise OSError("cannot close")

        async def aclose(self):
            raise OSError("cannot close")

    stage = scene(*sharing)
    stage.backend = Streaming(Stuck(Failure("server")), Stuck("x", "y"))
    assert stage.drive(streamed) == "xy"


def test_whom_nobody_serves(scene, sharing, mode):
    """Only targets that serve the model asked for are tried, and the reason says which did not."""
    stage = scene(
        *sharing,
        targets=[Target("a", "p", "m", serves=frozenset({"x"})), Target("b", "p", "m", serves=frozenset({"y"}))],
    )
    assert stage.drive(mode, Call("hi", model="y")) == "abc"
    assert stage.backend.sent == {"b": 1}
    with pytest.raises(NoTarget) as caught:
        stage.drive(mode, Call("hi", model="z"))
    assert caught.value.reasons == {"a": "does not serve 'z'", "b": "does not serve 'z'"}


def test_a_backend_with_targets_of_its_own(scene, sharing, mode):
    """They are tried in place of the kit's."""
    stage = scene(*sharing)
    stage.backend.targets = [Target("mine", "p", "m")]
    assert stage.drive(mode) == "abc"
    assert stage.backend.sent == {"mine": 1}


def test_why_there_is_no_target(scene, sharing, plugin, mode):
    """``NoTarget`` says who dropped which target, what refused the others, and the shortest time to wait."""

    def refuse(attempt):
        raise RateLimited("requests", retry_after={"b": 5.0, "c": 2.0}[attempt.target.name])

    stage = scene(
        *sharing,
        plugin("picky", route=lambda targets: [t for t in targets if t.name != "a"]),
        plugin("limiter", pre_attempt=refuse),
        targets=[Target(name, "p", "m") for name in "abc"],
    )
    with pytest.raises(NoTarget) as caught:
        stage.drive(mode)
    reasons = caught.value.reasons
    assert reasons["a"] == "dropped by picky.llmkit_route"
    assert (reasons["b"].retry_after, reasons["c"].retry_after, caught.value.retry_after) == (5.0, 2.0, 2.0)


def test_one_target_refused_is_that_refusal(scene, sharing, plugin, mode):
    """With one target there is nothing to sum up: the caller gets the refusal itself."""

    def refuse(call):
        raise RateLimited("requests", "u1", retry_after=4.0)

    stage = scene(*sharing, plugin(pre_attempt=refuse), targets=[Target("a", "p", "m")])
    with pytest.raises(RateLimited) as caught:
        stage.drive(mode)
    assert (caught.value.limit, caught.value.key, caught.value.retry_after) == ("requests", "u1", 4.0)


def test_no_targets_at_all(scene, sharing, mode):
    """A kit without targets refuses, and says so."""
    with pytest.raises(NoTarget, match="there was none to begin with"):
        scene(*sharing, targets=[]).drive(mode)


def test_each_refusal_is_refused(scene, sharing, plugin, mode):
    """A route hook that returns nobody refuses the call with its reasons."""
    with pytest.raises(Refused, match=r"dropped by nobody\.llmkit_route"):
        scene(*sharing, plugin("nobody", route=lambda targets: [])).drive(mode)


def test_usage_is_kept_by_an_attempt_that_failed_late(scene, streamed):
    """What the provider had counted when the stream broke is on the attempt."""
    stage = scene(script={"a": [Last("x"), Failure("server")]})
    call = Call("hi")
    with pytest.raises(Failure):
        stage.drive(streamed, call)
    assert call.attempts[0].usage.total_tokens == 8
