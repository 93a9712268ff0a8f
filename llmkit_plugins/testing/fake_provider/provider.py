"""A provider to test against: the server, its thread, and the controls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, Unpack

from aiohttp import web

from llmkit_plugins.testing.fake_provider.behaviour import Behaviour, BehaviourSettings
from llmkit_plugins.testing.fake_provider.checks import whole
from llmkit_plugins.testing.fake_provider.faults import Fault
from llmkit_plugins.testing.fake_provider.latency import Latency
from llmkit_plugins.testing.fake_provider.service import Service
from llmkit_plugins.testing.fake_provider.stats import Ledger, ProviderStats, SeenRequest

HOST = "127.0.0.1"


class FakeProvider:
    """A real HTTP server on loopback that serves OpenAI's chat completions, completions, embeddings and models.

    ``with FakeProvider(reply="Hello") as provider:`` (or ``async with``) starts it in its own thread; point a client at
    ``provider.url`` with any key. Its behaviour is a :class:`Behaviour`, given as such or as keyword arguments, and may
    be changed while it runs, from any thread. A token is a word. Raises ``ConfigError`` for settings that cannot be
    used.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        port: int = 0,
        keep_requests: int = 1000,
        **settings: Unpack[BehaviourSettings],
    ) -> None:
        """*port* 0 takes any free one. *keep_requests* bounds ``requests``. *settings* change *behaviour*."""
        whole("port", port, 0, 65535)
        whole("keep_requests", keep_requests, 0)
        self._made = self._behaviour = (behaviour or Behaviour()).changed(settings)
        self._port = port
        self._ledger = Ledger(keep_requests)
        self._changing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._service: Service
        self._stopped: asyncio.Event

    def start(self) -> Self:
        """Listen; some milliseconds. Started again, it listens where it did. Raises ``OSError`` if the port is
        taken."""
        with self._changing:
            if self._thread is not None:
                raise RuntimeError("it is running already")
            listening: Future[int] = Future()
            thread = threading.Thread(
                target=asyncio.run, args=[self._run(listening)], name="fake-provider", daemon=True
            )
            thread.start()
            self._port = listening.result()
            self._thread = thread
        return self

    def close(self) -> None:
        """Cut every connection and stop. Does nothing if it is not running."""
        with self._changing:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
            thread.join()

    async def _run(self, listening: Future[int]) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._service = Service(self._behaviour, self._ledger)
        try:
            async with _listening(self._service, self._port) as port:
                listening.set_result(port)
                await self._stopped.wait()
        except BaseException as error:
            if listening.done():
                raise
            listening.set_exception(error)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    @property
    def url(self) -> str:
        """The base URL for a client, with ``/v1``. Raises ``RuntimeError`` if the port is to be chosen freely and it
        has never been started."""
        if not self._port:
            raise RuntimeError("it has no port before it is started: with FakeProvider() as provider: ...")
        return f"http://{HOST}:{self._port}/v1"

    @property
    def behaviour(self) -> Behaviour:
        """How it behaves. Assign another to change that for the requests to come; those under way go on as they
        began."""
        return self._behaviour

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        with self._changing:
            self._behaviour = behaviour
            self._tell(lambda service: service.adopt(behaviour))

    def change(self, **settings: Unpack[BehaviourSettings]) -> None:
        """Change some settings and leave the others as they are."""
        with self._changing:
            self._behaviour = behaviour = self._behaviour.changed(settings)
            self._tell(lambda service: service.adopt(behaviour))

    def fail_with(self, *faults: Fault) -> None:
        """Replace the faults by these, which count requests from here."""
        self.change(faults=faults)

    def slow_down(
        self, *, first_token_seconds: float | Latency | None = None, per_token_seconds: float | Latency | None = None
    ) -> None:
        """Set the latency from now on; None leaves a value as it is."""
        settings: BehaviourSettings = {}
        if first_token_seconds is not None:
            settings["first_token_seconds"] = first_token_seconds
        if per_token_seconds is not None:
            settings["per_token_seconds"] = per_token_seconds
        self.change(**settings)

    def heal(self) -> None:
        """Remove all faults and restore the initial latency."""
        made = self._made
        self.change(faults=(), first_token_seconds=made.first_token_seconds, per_token_seconds=made.per_token_seconds)

    @property
    def stats(self) -> ProviderStats:
        """A consistent snapshot of the counts. A response that has been read to its end is included."""
        return self._ledger.snapshot()

    @property
    def requests(self) -> list[SeenRequest]:
        """The last requests, oldest first, as received."""
        return self._ledger.requests()

    def reset(self) -> None:
        """Reset the counts, forget the requests, and restart schedules, replies, limits and randomness."""
        with self._changing:
            self._ledger.reset()
            self._tell(lambda service: service.restart())

    def wait_until(self, holds: Callable[[ProviderStats], bool], timeout_seconds: float = 5.0) -> ProviderStats:
        """Block until *holds* is true of the stats; return them. Raises ``TimeoutError`` after *timeout_seconds*."""
        return self._ledger.wait_until(holds, timeout_seconds)

    def _tell(self, order: Callable[[Service], None]) -> None:
        """Have the service do something before it handles another request."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(order, self._service)


@asynccontextmanager
async def _listening(service: Service, port: int) -> AsyncIterator[int]:
    """Serve on loopback; yields the port."""
    app = service.app()
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)

    async def cut_connections(_app: web.Application) -> None:
        service.closing = True
        for connection in runner.server.connections if runner.server else ():
            if connection.transport is not None:
                # otherwise closing would wait for clients that do not read
                connection.transport.abort()
        await asyncio.sleep(0)

    app.on_shutdown.append(cut_connections)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
