"""The registered plugins in order, and the ways to make a call through them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pluggy

from llmkit_plugins import hookspecs
from llmkit_plugins.backend import Backend
from llmkit_plugins.call import Call, Response, Target
from llmkit_plugins.clock import SYSTEM_CLOCK, Clock, sleep_of
from llmkit_plugins.engine import drivers
from llmkit_plugins.engine.handle import Handle, Leases, ahold, hold
from llmkit_plugins.engine.lifecycle import Flow, attempt_at, delegated, request, route, upstream
from llmkit_plugins.engine.plan import Bugs, Plan, check_hooks, compile_hooks
from llmkit_plugins.engine.sharing import Flights
from llmkit_plugins.engine.telling import settle
from llmkit_plugins.engine.timing import HookTimer, Took
from llmkit_plugins.errors import ConfigError, LLMKitError, Refused
from llmkit_plugins.events import Events
from llmkit_plugins.forks import new_rlock
from llmkit_plugins.given import given

_PLAIN = Backend()


class LLMKit:
    """Plugins in order, the targets they choose from, and the lifecycle that runs them around a call.

    *plugins* are instances, in hook order. *clock* returns seconds and never goes backwards. *on_plugin_error* says
    what happens when a plugin has a bug: ``"log"`` (logged once per hook and counted, and the call proceeds) or
    ``"raise"`` (for tests). A call that a framework began but never ended is cancelled after *lease_seconds* (a stream:
    that long after its last chunk). Raises ``ConfigError`` for a plugin without hooks, with unknown or async hooks, or
    for two targets with the same name.
    """

    def __init__(
        self,
        plugins: Iterable[Any] = (),
        targets: Iterable[Target] = (),
        *,
        clock: Clock = SYSTEM_CLOCK,
        on_plugin_error: Literal["log", "raise"] = "log",
        lease_seconds: float = 600.0,
    ) -> None:
        self.targets: tuple[Target, ...] = _unique(targets)
        self.clock = clock
        self.flights = Flights(clock)
        self.leases = Leases(clock, lease_seconds)
        self._bugs = Bugs(on_plugin_error)
        self.events = Events(self._bugs.report)
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._plugins: dict[str, Any] = {}
        self._lock = new_rlock()
        self._closed = False
        self._timer: HookTimer | None = None
        self._compile()
        for plugin in _listed("plugins", plugins):
            self.register(plugin)

    @classmethod
    def from_config(cls, source: str | Path | Mapping[str, Any] | None = None, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """Build a kit from a TOML file or a dict.

        Without *source*: the file named by ``LLMKIT_CONFIG``, or else ``llmkit.toml``, or else ``[tool.llmkit]`` in
        ``pyproject.toml``. Raises ``ConfigError`` that names file and key.
        """
        from llmkit_plugins.config import assemble

        assembled = assemble(source)
        settings = assembled.settings
        kit = cls(
            (),
            assembled.targets,
            clock=clock,
            on_plugin_error=settings.on_plugin_error,
            lease_seconds=settings.lease_seconds,
        )
        for name, plugin in assembled.plugins:
            kit.register(plugin, name)
        return kit

    # -- plugins ----------------------------------------------------------------------------------------------------

    @property
    def plugins(self) -> Mapping[str, Any]:
        """The plugins by name, in order."""
        return dict(self._plugins)

    @property
    def bugs(self) -> Counter[str]:
        """How often each ``plugin.hook`` failed."""
        return self._bugs.counts

    def on_bug(self, told: Callable[[str], Any]) -> None:
        """Call *told* with the ``plugin.hook`` of each failure, as it is counted."""
        self._bugs.listeners.append(told)

    def register(self, plugin: Any, name: str | None = None, at: int | None = None) -> None:
        """Add *plugin*, last or at position *at*; calls in flight do not see it.

        Its name is *name*, or else its own ``name``, or else that of its class; a number is added if that is taken. A
        plugin's ``attach(kit)``, if it has one, is called first. Raises ``ConfigError`` for hooks that cannot work, and
        for a name or a class in place of a plugin.
        """
        if isinstance(plugin, str):
            raise ConfigError(f"{plugin!r} is a name", key="plugins", right="a plugin; LLMKit.from_config takes names")
        if isinstance(plugin, type):
            called = plugin.__name__
            raise ConfigError(f"{called} is a class", key="plugins", right=f"a plugin, such as {called}()")
        own = getattr(plugin, "name", None)
        name = name or (own if isinstance(own, str) and own else type(plugin).__name__)
        check_hooks(plugin, name)
        with self._lock:
            if plugin in self._plugins.values():  # or an equal one: they would share their state on a call
                raise ConfigError("this plugin is already registered", key=name)
            if name in self._plugins:
                name = next(
                    f"{name}-{n}" for n in range(2, len(self._plugins) + 3) if f"{name}-{n}" not in self._plugins
                )
            if hasattr(plugin, "attach"):
                plugin.attach(self)
            self._manager.register(plugin, name)
            order = list(self._plugins.items())
            order.insert(len(order) if at is None else at, (name, plugin))
            self._plugins = dict(order)
            self._compile()

    def unregister(self, plugin: Any) -> None:
        """Remove *plugin* (itself or its name); it is still told the end of calls in flight whose beginning it saw."""
        with self._lock:
            name = self._name_of(plugin)
            self._manager.unregister(name=name)
            self._plugins = {other: kept for other, kept in self._plugins.items() if other != name}
            self._compile()

    def reorder(self, names: Sequence[str]) -> None:
        """Put the plugins in the order of *names*, which must list them all; calls in flight keep the old order."""
        with self._lock:
            if sorted(names) != sorted(self._plugins):
                raise ConfigError(
                    f"{list(names)} are not the plugins", key="plugins", right=f"all of {', '.join(self._plugins)}"
                )
            self._plugins = {name: self._plugins[name] for name in names}
            self._compile()

    def _name_of(self, plugin: Any) -> str:
        for name, registered in self._plugins.items():
            if plugin is registered or plugin == name:
                return name
        raise ConfigError(
            f"{plugin!r} is not registered", key="plugins", right=f"one of {', '.join(self._plugins) or 'none'}"
        )

    def _compile(self) -> None:
        hooks = compile_hooks(list(self._plugins.values()), self._manager)
        self._plan = Plan(**hooks, clock=self.clock, sleep=sleep_of(self.clock), flights=self.flights, bugs=self._bugs)
        self._timed_plan = self._plan if self._timer is None else self._timer.timed(self._plan)

    def time_hooks(self, took: Took, *, every: int) -> None:
        """Call ``took(plugin, hook, seconds)`` for the hooks of one call out of *every*, excluding waits.

        The other calls pay a thirtieth of a microsecond for it; without a listener, no call pays. Only the most recent
        listener is called. Raises ``ConfigError`` if *every* is below 1.
        """
        if every < 1:
            raise ConfigError(f"{every!r} is not valid", key="every", right="1 or more: one call of so many is timed")
        with self._lock:
            self._timer = HookTimer(took, every)
            self._compile()

    def _next_plan(self) -> Plan:
        """The plan for a call or attempt that starts now; expired handles are cancelled first."""
        if self.leases.ends:
            self.leases.expire(self.clock())
        return self._plan if self._timer is None or not self._timer.due() else self._timed_plan

    # -- calls ------------------------------------------------------------------------------------------------------

    def call(self, call: Call, backend: Backend) -> Response:
        """Send *call* through the plugins and return the response, blocking this thread."""
        plan, flow = self._begin(call, backend, stream=False)
        response: Response = drivers.run(flow, call, backend, plan, call)
        return response

    async def acall(self, call: Call, backend: Backend) -> Response:
        """Send *call* through the plugins and return the response."""
        plan, flow = self._begin(call, backend, stream=False)
        response: Response = await drivers.arun(flow, call, backend, plan, call)
        return response

    def stream(self, call: Call, backend: Backend) -> Iterator[Any]:
        """Send *call* and yield the answer in chunks, in this thread. On success ``call.response`` is set."""
        plan, flow = self._begin(call, backend, stream=True)
        return drivers.stream(flow, call, backend, plan, call)

    def astream(self, call: Call, backend: Backend) -> AsyncIterator[Any]:
        """Send *call* and yield the answer in chunks. On success ``call.response`` is set."""
        plan, flow = self._begin(call, backend, stream=True)
        return drivers.astream(flow, call, backend, plan, call)

    def _begin(self, call: Call, backend: Backend, *, stream: bool) -> tuple[Plan, Flow]:
        plan = self._admit(call)
        call.stream = stream
        if backend.delegates:
            return plan, request(plan, call, delegated(call))
        return plan, request(plan, call, upstream(plan, call, backend.targets or self.targets, backend))

    # -- calls that a framework sends by itself ---------------------------------------------------------------------

    def begin(self, call: Call, target: Target, backend: Backend = _PLAIN, *, may_wait: bool = False) -> Handle:
        """Ask the plugins about *call*, which the framework is about to send to *target*; report its end to
        the returned handle.

        Raises a plugin's refusal. If the caller cannot wait (a callback), a plugin that would wait refuses instead.
        """
        plan, flow = self._begin_framework_call(call, target, backend)
        return hold(flow, call, plan, self.leases, may_wait=may_wait)

    async def abegin(self, call: Call, target: Target, backend: Backend = _PLAIN) -> Handle:
        """The same, awaiting where a plugin waits."""
        plan, flow = self._begin_framework_call(call, target, backend)
        return await ahold(flow, call, plan, self.leases)

    def _begin_framework_call(self, call: Call, target: Target, backend: Backend) -> tuple[Plan, Flow]:
        plan = self._admit(call)
        call.answerable = False
        return plan, request(plan, call, upstream(plan, call, (target,), backend))

    def route(
        self, call: Call, targets: Sequence[Target], dropped: dict[str, str | Refused] | None = None
    ) -> Sequence[Target]:
        """*targets* as the plugins leave them for the next attempt of *call*, best first; for backends that delegate.

        *dropped* records, by name, which plugin dropped which target, as in ``NoTarget``.
        """
        return route(self._plan, call, tuple(targets), {} if dropped is None else dropped)

    def attempt(self, call: Call, target: Target, backend: Backend = _PLAIN, *, may_wait: bool = True) -> Handle:
        """Ask the plugins about one attempt of *call*, a call in flight through a backend that delegates."""
        plan = self._next_plan()
        return hold(attempt_at(plan, call, target, backend), call, plan, self.leases, may_wait=may_wait)

    async def aattempt(self, call: Call, target: Target, backend: Backend = _PLAIN) -> Handle:
        """The same, awaiting where a plugin waits."""
        plan = self._next_plan()
        return await ahold(attempt_at(plan, call, target, backend), call, plan, self.leases)

    def _admit(self, call: Call) -> Plan:
        """The plan that *call* keeps; a call is admitted only once."""
        if self._closed:
            raise LLMKitError("this kit is closed")
        if call.begun:
            raise LLMKitError("a Call is made once: make a new one for each request")
        call.begun = True
        return self._next_plan()

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop shared upstreams, cancel what frameworks left open, deliver late ends and close the plugins; once."""
        if self._stop():
            self._close_plugins()

    async def aclose(self) -> None:
        """The same, and wait until the shared upstreams of this event loop have ended before the plugins are closed."""
        tasks = self.flights.tasks(asyncio.get_running_loop())
        if self._stop():
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                self._close_plugins()

    def _stop(self) -> bool:
        with self._lock:
            if self._closed:
                return False
            self._closed = True
        self.flights.close()
        self.leases.close()
        return True

    def _close_plugins(self) -> None:
        settle()
        for name, plugin in reversed(self._plugins.items()):
            if hasattr(plugin, "close"):
                try:
                    plugin.close()
                except Exception as bug:
                    self._bugs.report(f"{name}.close", bug)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.aclose()


def _unique(targets: Iterable[Target]) -> tuple[Target, ...]:
    right = 'Target("name", "provider", "model"); LLMKit.from_config takes tables'
    listed = tuple([given(Target, target, key="targets", right=right) for target in _listed("targets", targets)])
    for name, times in Counter(target.name for target in listed).items():
        if times > 1:
            raise ConfigError(f"{times} targets are called {name!r}", key="targets", right="a name of its own for each")
    return listed


def _listed(what: str, value: Iterable[Any]) -> Iterable[Any]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(f"{type(value).__name__} is no list", key=what, right=f"a list of {what}")
    return value
