"""Which hooks are refused when a plugin is registered, and how those that are not are called."""

from __future__ import annotations

from functools import partial

import pytest

from llmkit_plugins import Backend, Call, ConfigError, LLMKit, Target, Wait, hookimpl
from llmkit_plugins.engine.plan import HOOKS, check_hooks


def refused(plugin):
    """The error that says why."""
    with pytest.raises(ConfigError) as caught:
        LLMKit([plugin])
    return caught.value


def test_the_six_hooks():
    """There are six, with these arguments."""
    assert HOOKS == {
        "llmkit_pre_request": ("call",),
        "llmkit_route": ("call", "targets"),
        "llmkit_pre_attempt": ("call", "attempt"),
        "llmkit_post_attempt": ("call", "attempt"),
        "llmkit_post_response": ("call", "response"),
        "llmkit_error": ("call", "error"),
    }


def test_a_hook_that_does_not_exist():
    """The nearest one is named."""

    class Misspelt:
        @hookimpl
        def llmkit_pre_requst(self, call): ...

    error = refused(Misspelt())
    assert error.key == "Misspelt.llmkit_pre_requst"
    assert error.right == "did you mean llmkit_pre_request?"


def test_a_hook_that_is_like_no_other():
    """Where none is near, all are named."""

    class Invented:
        @hookimpl(specname="on_sunday")
        def rest(self, call): ...

    assert refused(Invented()).right == f"one of {', '.join(HOOKS)}"


def test_a_hook_that_is_not_marked():
    """A method that looks like a hook and is not marked would never be called."""

    class Unmarked:
        def llmkit_route(self, call, targets): ...

    assert str(refused(Unmarked())) == ("Unmarked.llmkit_route: the hook is not marked (put @hookimpl above it)")


def test_a_hook_that_is_no_function(plugin):
    """An object that can be called would not be found."""
    assert "neither a function nor a method" in str(refused(plugin(route=partial(print))))


def test_a_plugin_without_hooks():
    """It would never hear of anything."""
    assert "at least one of" in refused(object()).right


@pytest.mark.parametrize("option", ["wrapper", "hookwrapper"])
def test_a_wrapper(option):
    """The pair of hooks is the wrapper."""

    class Wrapping:
        @hookimpl(**{option: True})
        def llmkit_pre_request(self, call):
            yield

    assert "use the pre hook and its post hook" in str(refused(Wrapping()))


@pytest.mark.parametrize("option", ["tryfirst", "trylast"])
def test_an_order_of_its_own(option):
    """The list of plugins is the only order."""

    class Pushy:
        @hookimpl(**{option: True})
        def llmkit_pre_request(self, call): ...

    assert "the order of the plugins list" in str(refused(Pushy()))


def test_async_hooks():
    """Nothing would await them."""

    class Awaitable:
        @hookimpl
        async def llmkit_pre_request(self, call): ...

    class Yielding:
        @hookimpl
        async def llmkit_pre_request(self, call):
            yield

    for plugin in (Awaitable(), Yielding()):
        assert "a hook cannot be async" in str(refused(plugin))


@pytest.mark.parametrize("hook", ["route", "post_attempt", "post_response", "error"])
def test_a_hook_that_would_wait(plugin, hook):
    """Only the two pre hooks may yield steps."""

    def waits(call):
        yield Wait(1.0)

    assert "only pre hooks can yield steps" in str(refused(plugin(**{hook: waits})))


def test_a_static_hook_that_would_wait():
    """A static method is looked through, whichever decorator is on top."""

    class Static:
        @staticmethod
        @hookimpl
        def llmkit_route(call, targets):
            yield

    class Class:
        @hookimpl
        @classmethod
        def llmkit_route(cls, targets):
            yield

    for plugin in (Static(), Class()):
        assert "only pre hooks can yield steps" in str(refused(plugin))


@pytest.mark.parametrize(
    "hook", [lambda calls: None, lambda call, response: None, lambda *, call: None, lambda targets, /, x: None]
)
def test_an_argument_that_the_hook_does_not_have(plugin, hook):
    """A hook that insists on one could never be called."""
    error = refused(plugin(route=hook))
    assert error.what.startswith("the hook has no argument")
    assert error.right == "any of call, targets, in any order, none after a *"


class Echo(Backend):
    def send(self, call, attempt):
        return "answer"


def call_through(plugin):
    kit = LLMKit([plugin], [Target("a", "p", "m")])
    kit.call(Call("hi"), Echo())
    assert not kit.bugs


def test_arguments_by_name(plugin):
    """A hook may take fewer arguments, in any order, with defaults of its own."""
    seen = []
    call_through(
        plugin(
            pre_request=lambda: seen.append("none"),
            route=lambda targets, call: seen.append((targets[0].name, call.messages)),
            pre_attempt=lambda attempt, mine="mine": seen.append((attempt.number, mine)),
            post_attempt=lambda attempt, call: seen.append((attempt.outcome, call.messages)),
            post_response=lambda response: seen.append(response.raw),
        )
    )
    assert seen == ["none", ("a", "hi"), (1, "mine"), ("ok", "hi"), "answer"]


def test_hooks_of_every_form():
    """A method, a static or class method, an inherited one, one under another name: each is called."""

    class Base:
        @hookimpl
        def llmkit_post_response(self, call):
            seen.append("inherited")

    class Forms(Base):
        @hookimpl
        @staticmethod
        def llmkit_pre_request(call):
            seen.append("static")

        @staticmethod
        @hookimpl
        def llmkit_pre_attempt(call):
            seen.append("static too")

        @classmethod
        @hookimpl
        def llmkit_post_attempt(cls, call):
            seen.append("class")

        @hookimpl(specname="llmkit_route")
        def order(self, targets):
            seen.append("renamed")

    seen = []
    call_through(Forms())
    assert seen == ["static", "renamed", "static too", "class", "inherited"]


def test_a_class_is_checked_like_its_instances():
    """What will be made of it later may be checked before."""

    class Fine:
        @hookimpl
        def llmkit_route(self, targets): ...

    class Wrong:
        @hookimpl
        def llmkit_route(self, nonsense): ...

    check_hooks(Fine, "fine")
    with pytest.raises(ConfigError, match="no argument 'nonsense'"):
        check_hooks(Wrong, "wrong")


def test_properties_are_not_run():
    """Looking for hooks reads no property of the plugin."""

    class Lazy:
        @property
        def connection(self):
            raise AssertionError("it was connected")

        @hookimpl
        def llmkit_error(self, call): ...

    LLMKit([Lazy()])


def test_a_hook_that_nobody_has_costs_nothing(plugin):
    """It has an empty tuple in the plan."""
    plan = LLMKit([plugin(route=lambda call: None)])._plan
    assert plan.pre_request == plan.pre_attempt == plan.post_attempt == plan.error == ()
    assert len(plan.route) == 1
