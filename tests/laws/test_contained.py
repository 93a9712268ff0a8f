"""Law 2: no plugin breaks a call, unless it is marked critical and the call must not go on without it."""

from __future__ import annotations

import asyncio

import pytest

from llmkit_plugins import Answer, Ask, Call, PluginFailed, Response, Share, Target, Wait
from llmkit_plugins.testing import Failure, Pause

HOOKS = ("pre_request", "route", "pre_attempt", "post_attempt", "post_response", "error")
GONE = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)


def raiser(error):
    def hook(call):
        raise error

    return hook


def failing(succeeds):
    return {} if succeeds else {"a": [Failure("server")], "b": [Failure("server")]}


@pytest.mark.parametrize("succeeds", [True, False], ids=["answered", "failed"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_bug_changes_no_answer(scene, plugin, sharing, mode, hook, succeeds, caplog):
    """A hook that raises is counted each time and logged once with its traceback; the caller notices nothing."""
    stage = scene(*sharing, plugin("buggy", **{hook: raiser(ZeroDivisionError("bug"))}), script=failing(succeeds))
    for _ in range(2):
        if succeeds:
            assert stage.drive(mode) == "abc"
        else:
            with pytest.raises(Failure):
                stage.drive(mode)
    ran = stage.kit.bugs[f"buggy.llmkit_{hook}"]
    assert (ran == 0) == (hook == ("error" if succeeds else "post_response"))
    assert ran % 2 == 0
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError] * bool(ran)
    assert stage.counts["request"] == 2


def test_a_plugin_that_raises_in_every_hook(scene, plugin, sharing, mode):
    """A plugin with nothing but bugs changes neither the answer nor what the others are told."""
    stage = scene(*sharing, plugin(**dict.fromkeys(HOOKS, raiser(ZeroDivisionError("bug")))))
    assert stage.drive(mode) == "abc"
    assert stage.counts == {"request": 1, "attempt": 1, "attempt ok": 1, "request ok": 1}
    assert sum(stage.kit.bugs.values()) == 5


@pytest.mark.parametrize("hook", ["pre_request", "route", "pre_attempt"])
def test_the_bug_of_a_critical_plugin_refuses(scene, plugin, sharing, mode, hook):
    """A guard that fails lets nobody through: the refusal names it, and its bug is the cause."""
    bug = ZeroDivisionError("bug")
    stage = scene(*sharing, plugin("guard", critical=True, **{hook: raiser(bug)}), targets=[Target("a", "p", "m")])
    with pytest.raises(PluginFailed) as caught:
        stage.drive(mode)
    assert caught.value.who == f"guard.llmkit_{hook}"
    assert caught.value.__cause__ is bug
    assert not stage.backend.sent
    assert stage.counts["request refused"] == 1


@pytest.mark.parametrize("hook", ["post_attempt", "post_response"])
def test_a_critical_plugin_cannot_take_an_answer_back(scene, plugin, sharing, mode, hook):
    """What is critical refuses before; afterwards its bug is a bug like any other."""
    stage = scene(*sharing, plugin("guard", critical=True, **{hook: raiser(ZeroDivisionError("bug"))}))
    assert stage.drive(mode) == "abc"
    assert stage.kit.bugs == {f"guard.llmkit_{hook}": 1}


@pytest.mark.parametrize("hook", HOOKS)
def test_told_to_raise(scene, plugin, sharing, mode, hook):
    """With ``on_plugin_error="raise"`` a bug reaches the caller, and everybody still hears the end."""
    stage = scene(
        *sharing,
        plugin(**{hook: raiser(ZeroDivisionError("bug"))}),
        script=failing(hook != "error"),
        on_plugin_error="raise",
    )
    with pytest.raises(ZeroDivisionError):
        stage.drive(mode)
    assert stage.counts["request"] == 1


@pytest.mark.parametrize("hook", ["pre_attempt", "post_attempt"])
def test_told_to_raise_while_failing_over(scene, plugin, sharing, mode, hook):
    """A bug that is to be raised is not taken for a failure that the next target may not have."""
    stage = scene(
        *sharing,
        plugin(**{hook: raiser(ConnectionError("the plugin's, not the provider's"))}),
        script={"a": [Failure("server")]},
        on_plugin_error="raise",
    )
    with pytest.raises(ConnectionError):
        stage.drive(mode)
    assert len(stage.first.attempts) == 1


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("hook", HOOKS)
def test_an_interrupt_inside_a_hook(scene, plugin, sharing, mode, hook, gone):
    """Ctrl-C while a hook runs stops the call, and everybody still hears the end."""
    stage = scene(*sharing, plugin(**{hook: raiser(gone())}), script=failing(hook != "error"))
    with pytest.raises(BaseException):  # noqa: B017
        stage.drive(mode)
    assert stage.counts["request"] == 1


def yields_nonsense(call):
    yield "nonsense"


def yields_what_is_returned(call):
    yield Share("key")


@pytest.mark.parametrize(
    "hooks",
    [
        {"pre_request": yields_nonsense},
        {"pre_request": yields_what_is_returned},
        {"pre_request": lambda call: 42},
        {"pre_request": lambda call: Share(["unhashable"])},
        {"pre_request": lambda call: Answer("no response")},
        {"pre_request": lambda call: Answer(None)},
        {"pre_attempt": yields_nonsense},
        {"pre_attempt": lambda call: Answer(Response("no"))},
        {"pre_attempt": lambda call: Share("key")},
        {"route": lambda call: [Target("other", "p", "m")]},
        {"route": lambda call: 42},
        {"route": lambda call: [42, []]},
    ],
)
def test_nonsense(scene, plugin, sharing, mode, hooks):
    """What a hook may not say is its bug, and the call goes on as if it had said nothing."""
    stage = scene(*sharing, plugin(**hooks))
    assert stage.drive(mode) == "abc"
    assert len(stage.kit.bugs) == 1


@pytest.mark.parametrize("mode", ["arun", "astream"])
def test_a_share_that_cannot_be_joined(scene, share, mode):
    """Bounds that are no numbers are noticed by who would join: he goes alone."""
    stage = scene(share(max_age_seconds="5 min"))

    async def scenario():
        return await asyncio.gather(*[stage.adrive(mode) for _ in range(2)])

    assert stage.arun(scenario) == ["abc", "abc"]
    assert stage.backend.sent == {"a": 2}
    assert stage.kit.bugs == {"llmkit_pre_request's Share": 1}


@pytest.mark.parametrize("chunks", [(), [], None], ids=repr)
def test_an_answer_without_chunks(scene, plugin, mode, chunks):
    """It is none for who reads a stream, who would be told nothing: a provider is asked instead."""
    stage = scene(plugin(pre_request=lambda call: Answer(Response("xyz"), chunks)))
    streamed = "stream" in mode
    assert stage.drive(mode) == ("abc" if streamed else "xyz")
    assert len(stage.kit.bugs) == streamed


SECRET = "sk-" + "secret"
"""Spelled so that a traceback does not quote it."""


def yields_a_secret(call):
    yield SECRET


@pytest.mark.parametrize(
    "hooks",
    [
        {"pre_request": lambda call: SECRET},
        {"pre_request": lambda call: Answer(SECRET)},
        {"pre_request": yields_a_secret},
        {"pre_attempt": lambda call: Answer(Response("x"), [SECRET])},
        {"pre_attempt": yields_a_secret},
    ],
)
def test_nonsense_is_not_shown(scene, plugin, mode, hooks, caplog):
    """What a hook may not say can be a prompt or an answer: the log tells of what kind it is."""
    stage = scene(plugin(**hooks))
    assert stage.drive(mode) == "abc"
    assert len(caplog.records) == 1
    assert SECRET not in caplog.text


def test_a_route_hook_may_return_any_iterable(scene, plugin, sharing, mode):
    """What it returns is read once: a generator expression will do."""
    stage = scene(*sharing, plugin(route=lambda targets: (t for t in targets if t.name == "b")))
    assert stage.drive(mode) == "abc"
    assert stage.backend.sent == {"b": 1}
    assert not stage.kit.bugs


def test_a_route_hook_cannot_change_the_targets_in_place(scene, plugin, sharing, mode):
    """The kit's list of targets, and the backend's, are not a plugin's to sort."""
    stage = scene(*sharing, plugin(route=lambda targets: targets.sort(key=lambda target: target.name, reverse=True)))
    stage.backend.targets = list(stage.targets)
    assert stage.drive(mode) == "abc"
    assert stage.backend.sent == {"a": 1}
    assert stage.backend.targets == stage.targets


def test_a_frameworks_list_of_targets_is_its_own(scene, plugin):
    """What a backend that delegates has the plugins order is not theirs to change."""
    stage = scene(plugin(route=lambda targets: targets.clear()))
    targets = list(stage.targets)
    assert list(stage.kit.route(Call("hi"), targets)) == targets == stage.targets


def test_a_wait_of_nonsense(scene, plugin, sharing, mode):
    """A wait that is no number is the hook's bug; a negative one is none at all."""

    def waits(seconds):
        def hook(call):
            yield Wait(seconds)

        return hook

    stage = scene(*sharing, plugin("wrong", pre_request=waits("soon")), plugin("past", pre_request=waits(-5.0)))
    assert stage.drive(mode) == "abc"
    assert stage.kit.bugs == {"wrong.llmkit_pre_request": 1}
    assert stage.clock() == 0.0


def test_io_that_fails(scene, plugin, sharing, mode):
    """What an ``Ask`` raises is thrown into the hook, which may catch it; uncaught it is the hook's bug."""

    def fail():
        raise ConnectionError("the store is down")

    async def afail():
        fail()

    def careful(call):
        try:
            yield Ask(fail, afail)
        except ConnectionError as error:
            caught.append(error)

    def careless(call):
        yield Ask(fail, afail)

    caught = []
    stage = scene(*sharing, plugin("careful", pre_request=careful), plugin("careless", pre_attempt=careless))
    assert stage.drive(mode) == "abc"
    assert len(caught) == 1
    assert stage.kit.bugs == {"careless.llmkit_pre_attempt": 1}


def test_io_that_is_cancelled_by_somebody_else(scene, plugin, sharing):
    """A ``CancelledError`` that the I/O brings by itself is a failure of the I/O, not the caller leaving."""

    async def cancelled():
        raise asyncio.CancelledError

    def asks(call):
        yield Ask(lambda: None, cancelled)

    for mode in ("arun", "astream"):
        stage = scene(*sharing, plugin(pre_request=asks))
        assert stage.drive(mode) == "abc"
        assert len(stage.kit.bugs) == 1


def test_a_hook_that_calls_through_the_kit(scene, plugin, sharing, mode):
    """A hook may make a call of its own, even the identical one: it does not wait for the flight it is part of."""

    def again(call):
        if not call.metadata:
            inner = Call("hi", metadata={"inner": True})
            raw = yield Ask(lambda: stage.kit.call(inner, stage.backend).raw, lambda: stage.adrive("arun", inner))
            answers.append(raw)

    def again_streamed(call):
        if not call.metadata:
            inner = Call("hi", metadata={"inner": True})
            raw = yield Ask(
                lambda: "".join(stage.kit.stream(inner, stage.backend)), lambda: stage.adrive("astream", inner)
            )
            answers.append(raw)

    answers = []
    stage = scene(*sharing, plugin(pre_attempt=again_streamed if "stream" in mode else again))
    assert stage.drive(mode) == "abc"
    assert answers == ["abc"]
    assert stage.backend.sent == {"a": 2}
    assert not stage.kit.bugs


def test_listeners_of_the_first_chunk(scene, plugin, sharing, mode):
    """They are called once a stream has said something, one's bug does not keep it from the next, and never twice."""

    def listen(attempt):
        attempt.on_first_chunk = [lambda: 1 / 0, lambda: heard.append(attempt.first_chunk)]

    heard = []
    stage = scene(
        *sharing, plugin(pre_attempt=listen), script={"a": ["", Failure("server")], "b": [Pause(2.0), "x", "y"]}
    )
    assert stage.drive(mode) == "xy"
    assert heard == ([2.0] if "stream" in mode else [])
    assert sum(stage.kit.bugs.values()) == len(heard)


def test_listeners_of_chunks(scene, plugin, sharing, mode):
    """They hear each chunk of every attempt once, however many share it; one's bug changes nothing."""

    def listen(attempt):
        attempt.on_chunk = [lambda chunk: 1 / 0, lambda chunk: heard.append((attempt.target.name, chunk))]

    heard = []
    stage = scene(*sharing, plugin(pre_attempt=listen), script={"a": ["", Failure("server")], "b": ["x", "y"]})
    assert stage.drive(mode) == "xy"
    assert heard == ([("a", ""), ("b", "x"), ("b", "y")] if "stream" in mode else [])
    assert sum(stage.kit.bugs.values()) == len(heard)
    assert stage.backend.opened == stage.backend.closed


@pytest.mark.parametrize("mode", ["stream", "astream"])
def test_a_stream_that_is_listened_to_is_left(scene, plugin, mode):
    """Its source is closed at once when the caller leaves, as without a listener."""

    def listen(attempt):
        attempt.on_chunk = [heard.append]

    async def leave():
        stream = stage.kit.astream(Call("hi"), stage.backend)
        await anext(stream)
        await stream.aclose()
        assert stage.backend.closed == 1

    heard = []
    stage = scene(plugin(pre_attempt=listen), script={"a": ["x", "y", "z"]})
    if mode == "stream":
        stream = stage.kit.stream(Call("hi"), stage.backend)
        next(stream)
        stream.close()
    else:
        stage.arun(leave)
    assert heard == ["x"]
    assert stage.backend.opened == stage.backend.closed == 1


def test_a_backend_that_cannot_classify_its_errors(scene, sharing, mode):
    """A bug in the backend's ``kind`` is contained and counted: the error is then nobody's kind."""

    def kind(error):
        raise ZeroDivisionError

    stage = scene(*sharing, script={"a": [Failure("server")]})
    stage.backend.kind = kind
    with pytest.raises(Failure):
        stage.drive(mode)
    assert stage.kit.bugs == {"ScriptedBackend.kind": 1}
    assert stage.backend.sent == {"a": 1}
