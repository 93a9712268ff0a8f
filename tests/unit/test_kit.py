"""The kit: its plugins while calls are under way, its calls once each, its end."""

from __future__ import annotations

import asyncio
from threading import Event

import pytest

from llmkit_plugins import Call, ConfigError, LLMKit, LLMKitError, Share, Target, hookimpl
from llmkit_plugins.testing import MODES, Failure, ManualClock, Recorder, ScriptedBackend, drive

A = Target("a", "p", "m")


@pytest.fixture
def backend():
    return ScriptedBackend()


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


def names(kit):
    return list(kit.plugins)


def test_names(plugin):
    """A plugin is called what it is registered as, else as it calls itself, else as its class; numbered if taken."""
    kit = LLMKit([Recorder(), Recorder(), Recorder(), plugin("mine")])
    kit.register(plugin("other", error=lambda call: None), "given")
    assert names(kit) == ["Recorder", "Recorder-2", "Recorder-3", "mine", "given"]


@pytest.mark.parametrize("named", [None, "", 7, lambda: "method"], ids=["none", "empty", "number", "method"])
def test_a_name_that_is_no_text(named):
    """A plugin may use the attribute for something else: it is then called like its class."""
    recorder = Recorder()
    recorder.name = named
    assert names(LLMKit([recorder])) == ["Recorder"]


@pytest.fixture
def plugin(plugin):
    """A plugin that has at least one hook."""

    def make(name="plugin", **hooks):
        return plugin(name, **(hooks or {"error": lambda call: None}))

    return make


def test_where_a_plugin_goes(plugin):
    """At the end, or at the place it was given."""
    kit = LLMKit([plugin("x"), plugin("z")])
    kit.register(plugin("y"), at=1)
    kit.register(plugin("w"), at=0)
    assert names(kit) == ["w", "x", "y", "z"]


def test_the_same_plugin_twice(plugin):
    """It would be told everything twice, and share its own state with itself."""
    once = plugin("once")
    with pytest.raises(ConfigError, match="once: this plugin is already registered"):
        LLMKit([once, once])


def test_what_is_no_plugin():
    """A name, as settings have it, or a class says what would be right."""
    with pytest.raises(ConfigError, match=r"plugins: 'observability' is a name .*from_config"):
        LLMKit(["observability"])
    for lone in (Recorder(), "observability"):
        with pytest.raises(ConfigError, match=r"plugins: \w+ is no list \(a list of plugins\)"):
            LLMKit(lone)
    with pytest.raises(ConfigError, match=r"plugins: Recorder is a class .*Recorder\(\)"):
        LLMKit([Recorder])


def test_what_is_no_target():
    """A table, as settings have it, says what would be right, and so does a target that is in no list."""
    with pytest.raises(ConfigError, match=r"targets: dict is no Target .*from_config takes tables"):
        LLMKit([], [{"name": "a", "provider": "p", "model": "m"}])
    with pytest.raises(ConfigError, match=r"targets: Target is no list \(a list of targets\)"):
        LLMKit([], Target("a", "p", "m"))


def test_a_plugin_that_is_equal_to_another():
    """Equal plugins would share their place on a call, so the second is refused as well."""

    class Equal:
        def __eq__(self, other):
            return isinstance(other, Equal)

        def __hash__(self):
            return 1

        @hookimpl
        def llmkit_error(self, call): ...

    with pytest.raises(ConfigError, match="already registered"):
        LLMKit([Equal(), Equal()])


def test_a_plugin_that_cannot_be_registered_leaves_no_trace(plugin):
    """It may be mended and registered again."""
    kit = LLMKit([plugin("x")])
    broken = plugin("broken", route=lambda nonsense: None)
    with pytest.raises(ConfigError):
        kit.register(broken)
    broken.llmkit_route = hookimpl(lambda targets: None)
    kit.register(broken)
    assert names(kit) == ["x", "broken"]


def test_a_plugin_that_cannot_attach_is_not_registered(plugin):
    """What its ``attach`` raises reaches whoever registers it."""

    class Reluctant(Recorder):
        def attach(self, kit):
            raise OSError("no port is free")

    kit = LLMKit([])
    with pytest.raises(OSError, match="no port is free"):
        kit.register(Reluctant())
    assert names(kit) == []


def test_attach(plugin):
    """A plugin that wants to know its kit is told before it is called."""

    class Curious(Recorder):
        def attach(self, kit):
            self.kit = kit

    curious = Curious()
    kit = LLMKit([curious])
    assert curious.kit is kit


def test_unregister(plugin):
    """By itself or by name; what is not registered is an error that names what is."""
    x, y, z = plugin("x"), plugin("y"), plugin("z")
    kit = LLMKit([x, y, z])
    kit.unregister(y)
    kit.unregister("x")
    assert names(kit) == ["z"]
    with pytest.raises(ConfigError, match=r"is not registered \(one of z\)"):
        kit.unregister("x")
    kit.unregister(z)
    with pytest.raises(ConfigError, match=r"is not registered \(one of none\)"):
        kit.unregister(z)
    kit.register(x)
    assert names(kit) == ["x"]


def test_reorder(plugin, backend):
    """The order of the names is that of the hooks from the next call on; it takes all names."""
    order = []
    kit = LLMKit([plugin(name, pre_request=lambda call, name=name: order.append(name)) for name in "xyz"], [A])
    kit.reorder(["z", "x", "y"])
    kit.call(Call(), backend)
    assert order == ["z", "x", "y"]
    for wrong in (["x", "y"], ["x", "y", "z", "z"], ["x", "y", "w"]):
        with pytest.raises(ConfigError, match=r"are not the plugins \(all of z, x, y\)"):
            kit.reorder(wrong)


def test_what_the_kit_tells_of_its_plugins_is_a_copy(plugin):
    """Changing it changes nothing."""
    kit = LLMKit([plugin("x")])
    kit.plugins.clear()
    assert names(kit) == ["x"]


def test_plugins_that_come_and_go_under_calls_of_other_threads(in_threads):
    """While two threads make calls and a third changes the plugins, every plugin is told the end of what it began."""
    backend, done = ScriptedBackend(), Event()
    steady, guests = Recorder(), [Recorder() for _ in range(4)]
    kit = LLMKit([steady], [A])

    def call():
        while not done.is_set():
            assert kit.call(Call(), backend).raw == "abc"
            assert "".join(kit.stream(Call(), backend)) == "abc"

    def change():
        try:
            for turn in range(150):
                guest = guests[turn % 4]
                if guest in kit.plugins.values():
                    kit.unregister(guest)
                else:
                    kit.register(guest, at=turn % 2)
                kit.reorder(list(reversed(kit.plugins)))
        finally:
            done.set()

    assert in_threads(call, call, change) == [None, None, None]
    assert not steady.open
    assert not any(guest.open for guest in guests)
    assert any(guest.counts for guest in guests)
    assert not kit.bugs


@pytest.mark.parametrize("ended", ["ok", "error"])
def test_a_call_is_made_once(backend, mode, ended):
    """Making it again would mix two stories, however the first one ended."""
    kit, call = LLMKit([], [A] if ended == "ok" else []), Call()
    try:
        drive(kit, call, backend, mode)
    except LLMKitError:
        assert ended == "error"
    with pytest.raises(LLMKitError, match="a Call is made once"):
        drive(kit, call, backend, mode)


def test_a_call_is_made_once_at_a_time(backend):
    """Nor may it be made while it is under way."""
    kit, call = LLMKit([], [A]), Call()

    async def scenario():
        return await asyncio.gather(*[kit.acall(call, backend) for _ in range(2)], return_exceptions=True)

    response, error = ManualClock().run(scenario())
    assert response.raw == "abc"
    assert isinstance(error, LLMKitError)
    with pytest.raises(LLMKitError, match="made once"):
        kit.begin(call, A)


def test_two_targets_of_one_name():
    """They could not be told apart."""
    with pytest.raises(ConfigError, match=r"targets: 2 targets are called 'a' \(a name of its own for each\)"):
        LLMKit([], [A, Target("a", "q", "n")])


def test_targets_that_are_given_once_only(backend):
    """Plugins and targets may come from any iterable."""
    kit = LLMKit(iter([Recorder()]), iter([A]))
    assert [kit.call(Call(), backend).raw for _ in range(2)] == ["abc", "abc"]


def test_a_closed_kit_makes_no_calls(backend, mode):
    """Every way of making one says so."""
    kit = LLMKit([], [A])
    kit.close()
    with pytest.raises(LLMKitError, match="this kit is closed"):
        drive(kit, Call(), backend, mode)
    with pytest.raises(LLMKitError, match="this kit is closed"):
        kit.begin(Call(), A)


class Closing(Recorder):
    """Tells when it is closed."""

    def __init__(self, told, error=None):
        super().__init__()
        self.told, self.error = told, error

    def close(self):
        self.told.append(self)
        if self.error is not None:
            raise self.error


def test_closing_closes_the_plugins_once(caplog):
    """In the reverse of their order, those that can be; one that fails does not keep the others open."""
    told = []
    first, middle, last = Closing(told), Closing(told, OSError("stuck")), Closing(told)
    kit = LLMKit([first, middle, Recorder(), last])
    kit.close()
    kit.close()
    assert told == [last, middle, first]
    assert kit.bugs == {"Closing-2.close": 1}


def test_closing_asynchronously_happens_once():
    """``aclose`` after ``close``, or twice, does nothing."""
    told = []
    kit = LLMKit([Closing(told)])

    async def scenario():
        await kit.aclose()
        await kit.aclose()
        kit.close()

    ManualClock().run(scenario())
    assert len(told) == 1


def test_a_plugin_hears_its_last_attempt_before_it_is_closed():
    """``aclose`` waits for the shared upstreams of its loop: what they tell reaches plugins that are still open."""
    told = []

    class Sharing(Closing):
        @hookimpl
        def llmkit_pre_request(self, call):
            return Share("key")

        @hookimpl
        def llmkit_post_attempt(self, call, attempt):
            self.told.append(attempt.outcome)

    async def stuck():
        await asyncio.sleep(60.0)

    class Slow(ScriptedBackend):
        async def asend(self, call, attempt):
            await stuck()

    clock = ManualClock()
    kit = LLMKit([sharing := Sharing(told)], [A], clock=clock)

    async def scenario():
        task = asyncio.create_task(kit.acall(Call(), Slow()))
        await asyncio.sleep(1.0)
        await kit.aclose()
        await asyncio.wait([task])
        return task.exception()

    assert str(clock.run(scenario())) == "the kit was closed"
    assert told == ["cancelled", sharing]


def test_context_managers(backend):
    """Leaving the block closes the kit, sync or async, also through an error."""
    told = []
    with LLMKit([Closing(told)], [A]) as kit:
        kit.call(Call(), backend)

    async def scenario():
        async with LLMKit([Closing(told)], [A]) as kit:
            await kit.acall(Call(), backend)
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(scenario())
    assert len(told) == 2


def test_routing_for_a_framework(plugin):
    """A framework that routes by itself may ask for the plugins' order."""
    b = Target("b", "p", "m")
    kit = LLMKit([plugin(route=lambda targets: sorted(targets, key=lambda target: target.name, reverse=True))])
    assert [target.name for target in kit.route(Call(), [A, b])] == ["b", "a"]
    assert list(LLMKit([]).route(Call(), [A, b])) == [A, b]


def test_a_kit_without_plugins(backend, mode):
    """It sends to the first target that answers."""
    kit = LLMKit([], [A, Target("b", "p", "m")])
    backend.script = {"a": [Failure("server")]}
    assert drive(kit, Call(), backend, mode) == "abc"


def test_a_kit_from_settings(backend):
    """The same kit from a dict, with the clock it is given."""
    clock = ManualClock(5.0)
    kit = LLMKit.from_config(
        {"plugins": [], "lease_seconds": 7, "targets": [{"name": "a", "provider": "p", "model": "m"}]}, clock=clock
    )
    call = Call()
    assert kit.call(call, backend).raw == "abc"
    assert call.attempts[0].started == 5.0
    assert kit.leases.seconds == 7.0


@pytest.mark.parametrize(("mode", "word"), [("run", "synchronously"), ("arun", "asynchronously")])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_backend_that_cannot(mode, word, streamed):
    """The ways of sending that a backend does not support say so."""
    from llmkit_plugins import Backend

    if streamed:
        mode = mode.replace("run", "stream")
    with pytest.raises(NotImplementedError, match=f"Backend cannot (send|stream) {word}"):
        drive(LLMKit([], [A]), Call(), Backend(), mode)


def test_who_wants_to_know_of_bugs_is_told_of_each(plugin, backend):
    """By its place; one listener's own bug keeps it neither from the next nor from the call."""
    heard = []
    kit = LLMKit([plugin("buggy", pre_request=lambda call: 1 / 0)], [A])
    kit.on_bug(lambda where: 1 / 0)
    kit.on_bug(heard.append)
    kit.call(Call("hi"), backend)
    assert heard == ["buggy.llmkit_pre_request"]


def test_bugs_are_logged_once_and_counted_always(plugin, backend, caplog):
    """The first of each hook with its traceback, the others by number only."""
    kit = LLMKit([plugin("buggy", pre_request=lambda call: 1 / 0, error=lambda call: None)], [A])
    for _ in range(3):
        kit.call(Call(), backend)
    assert kit.bugs == {"buggy.llmkit_pre_request": 3}
    assert [(record.name, record.getMessage(), record.exc_info[0]) for record in caplog.records] == [
        ("llmkit", "buggy.llmkit_pre_request failed; this is logged the first time only", ZeroDivisionError)
    ]
