"""Counters in Redis, which all processes take from.

The store's own thread does the I/O: it batches concurrent requests into one round trip, and gives things back in the
background. If Redis does not answer, it is left alone for a while; what is to be given back is kept until it answers.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Any, NamedTuple
from weakref import WeakSet, WeakValueDictionary

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import ConnectionError as ConnectionLost
from redis.retry import Retry

from llmkit_plugins.forks import in_child
from llmkit_plugins.stores.claims import UNREACHABLE, Claim, Reply
from llmkit_plugins.stores.redis_scripts import SHIFT, TAKE, arguments_of, reply_of

log = logging.getLogger("llmkit")

_LARGEST_BATCH = 100
_LARGEST_BACKLOG = 10_000
_IDLE_SECONDS = 10.0
"""The thread ends after being idle this long; the next request starts another."""
_EXIT_SECONDS = 2.0
"""How long an exiting process waits for what it still has to give back."""


class _Job(NamedTuple):
    script: str
    claims: Sequence[Claim]
    reply: Future[Reply] | None
    patience: float = 0.0


class RedisStore:
    """The counters in the Redis at *url* (``redis://``, ``rediss://`` or ``unix://``), for any threads and tasks.

    It waits for an answer at most *timeout_seconds*; if there is none, Redis is not asked again for *retry_seconds*.
    Raises ``ValueError`` if *url* is not a Redis URL.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 0.25, retry_seconds: float = 1.0) -> None:
        self.place = place_of(url)
        """The location of the Redis."""
        self.failures = 0
        """How often Redis did not answer."""
        self._url, self._timeout_seconds, self._retry_seconds = url, timeout_seconds, retry_seconds
        self._away_until = float("-inf")
        self._away = False
        self._begin()
        _stores.add(self)
        in_child(self, RedisStore._begin)

    def _begin(self) -> None:
        """Start without connection or thread, as also in a forked process."""
        self._lock = Lock()
        self._thread: Thread | None = None
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._owed: list[Claim] = []
        self._client: Redis | None = None

    def take(self, claims: Sequence[Claim], patience: float = 0.0) -> Reply:
        """Take all of *claims* or none, blocking this thread; rates may be taken up to *patience* seconds ahead."""
        reply = self._ask(claims, patience)
        if reply is None:
            return UNREACHABLE
        try:
            return reply.result(2 * self._timeout_seconds)
        except TimeoutError as late:
            return self._not_waiting(claims, reply, late)
        except BaseException:
            self._withdraw(claims, reply)
            raise

    async def atake(self, claims: Sequence[Claim], patience: float = 0.0) -> Reply:
        """Like :meth:`take`, without blocking the event loop; if cancelled, nothing stays taken."""
        reply = self._ask(claims, patience)
        if reply is None:
            return UNREACHABLE
        try:
            async with asyncio.timeout(2 * self._timeout_seconds):
                return await asyncio.wrap_future(reply)
        except TimeoutError as late:
            return self._not_waiting(claims, reply, late)
        except BaseException:
            self._withdraw(claims, reply)
            raise

    def shift(self, claims: Sequence[Claim]) -> None:
        """Move rates by the steps of *claims*, unconditionally, and give back permits; soon, in the background."""
        if self._jobs.qsize() < _LARGEST_BACKLOG:
            self._put(_Job(SHIFT, claims, None))

    def flush(self, seconds: float) -> None:
        """Wait at most *seconds* until all earlier requests are done. A Redis being left alone is tried once more
        if there is anything to give back."""
        if self._thread is not None:
            done: Future[Reply] = Future()
            self._away_until = float("-inf")
            self._put(_Job(SHIFT, (), done))
            with suppress(TimeoutError):
                done.result(seconds)
            if self._owed or not done.done():
                log.warning("what was to be given back to Redis at %s may be lost", self.place)

    # -- asking -----------------------------------------------------------------------------------------------------

    def _ask(self, claims: Sequence[Claim], patience: float = 0.0) -> Future[Reply] | None:
        if monotonic() < self._away_until or self._jobs.qsize() >= _LARGEST_BACKLOG:
            return None
        reply: Future[Reply] = Future()
        self._put(_Job(TAKE, claims, reply, patience))
        return reply

    def _put(self, job: _Job) -> None:
        self._jobs.put(job)
        try:
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    thread = Thread(target=self._work, name="llmkit-redis", daemon=True)
                    thread.start()
                    self._thread = thread
        except RuntimeError as error:  # too many threads, or the interpreter is shutting down
            self._lost(error)

    def _not_waiting(self, claims: Sequence[Claim], reply: Future[Reply], late: TimeoutError) -> Reply:
        """Stop waiting for *reply*. If the caller itself was late, as under a busy event loop, the answer is there."""
        if reply.done() and not reply.cancelled():
            return reply.result()
        self._withdraw(claims, reply)
        self._lost(late)
        return UNREACHABLE

    def _withdraw(self, claims: Sequence[Claim], reply: Future[Reply]) -> None:
        """Cancel a request whose caller has gone; anything still taken for it is given back."""
        if not reply.cancel():
            reply.add_done_callback(partial(self._give_back, claims))

    def _give_back(self, claims: Sequence[Claim], reply: Future[Reply]) -> None:
        if not reply.cancelled() and reply.result().taken:
            self.shift([claim if claim.holder else claim._replace(step=-claim.step) for claim in claims])

    # -- the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            batch: list[_Job] = []
            try:
                patience = max(self._away_until - monotonic(), 0.0) if self._owed else _IDLE_SECONDS
                batch.append(self._jobs.get(timeout=patience))
            except Empty:
                with self._lock:
                    if self._jobs.empty() and not self._owed:
                        self._thread = None
                        return
            while len(batch) < _LARGEST_BATCH and not self._jobs.empty():
                batch.append(self._jobs.get())
            self._perform([job for job in batch if job.reply is None or job.reply.set_running_or_notify_cancel()])

    def _perform(self, jobs: Sequence[_Job]) -> None:
        replies = [UNREACHABLE] * len(jobs)
        if monotonic() < self._away_until:
            self._owe(claim for job in jobs if job.reply is None for claim in job.claims)
        else:
            owed, self._owed = self._owed, []
            replies = self._answered([_Job(SHIFT, owed, None), *jobs])[1:]
        for job, reply in zip(jobs, replies, strict=True):
            if job.reply is not None:
                job.reply.set_result(reply)

    def _answered(self, jobs: Sequence[_Job]) -> list[Reply]:
        try:
            answers = self._send(jobs)
            replies = [*map(reply_of, answers)]
        except Exception as error:  # on any error: nobody may be left waiting for a thread that has ended
            answers = [error] * len(jobs)
            replies = [UNREACHABLE] * len(jobs)
        failed = [(job, error) for job, error in zip(jobs, answers, strict=True) if _says_all_is_lost(error)]
        if failed:
            # It is unknown what was done. Giving permits back twice is harmless; with rates it would not be.
            self._owe(claim for job, _ in failed for claim in job.claims if claim.holder)
            self._lost(failed[0][1])
            self._disconnect()
        elif self._away and any(job.claims for job in jobs):
            self._away = False
            log.warning("Redis at %s answers again", self.place)
        return replies

    def _owe(self, claims: Iterable[Claim]) -> None:
        """Keep what is to be given back; if it is too much, the oldest is left to expire with its lease."""
        self._owed = [*self._owed, *claims][-_LARGEST_BACKLOG:]

    def _disconnect(self) -> None:
        """Drop the connection: this server may have stepped down, and the next connection may reach another."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.close()

    def _send(self, jobs: Sequence[_Job]) -> list[Any]:
        if self._client is None:
            self._client = Redis.from_url(
                self._url,
                encoding_errors="surrogatepass",
                socket_timeout=self._timeout_seconds,
                socket_connect_timeout=self._timeout_seconds,
                retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionLost,)),  # idle ones may have been closed
            )
        with self._client.pipeline(transaction=False) as pipeline:
            for script, claims, _, patience in jobs:
                if claims:
                    pipeline.eval(script, len(claims), *arguments_of(claims, patience))
            answered = iter(pipeline.execute(raise_on_error=False))
        return [next(answered) if job.claims else None for job in jobs]

    def _lost(self, error: Exception) -> None:
        self.failures += 1
        self._away_until = monotonic() + self._retry_seconds
        if not self._away:
            self._away = True
            log.warning(
                "Redis at %s cannot be asked (%s: %s): each process counts by itself until it answers",
                self.place,
                type(error).__name__,
                error,
            )


def place_of(url: str) -> str:
    """The location in *url*, without its secrets. Raises ``ValueError`` if it is not a Redis URL."""
    at: Mapping[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    return str(at["path"]) if "path" in at else f"{at.get('host', 'localhost')}:{at.get('port', 6379)}"


def _says_all_is_lost(answer: Any) -> bool:
    """Whether *answer* means that Redis failed; a single key holding a foreign value does not."""
    return isinstance(answer, Exception) and "WRONGTYPE" not in str(answer)


# -- one for each Redis ---------------------------------------------------------------------------------------------

_stores: WeakSet[RedisStore] = WeakSet()
_by_url: WeakValueDictionary[str, RedisStore] = WeakValueDictionary()


def store_at(url: str) -> RedisStore:
    """The store at *url*, shared within this process. Raises ``ValueError`` as :class:`RedisStore` does."""
    store = _by_url.get(url)
    return _by_url.setdefault(url, RedisStore(url)) if store is None else store


@atexit.register
def _flush_all() -> None:
    """Give back at exit what others would otherwise wait for until its lease expires."""
    for store in list(_stores):
        store.flush(_EXIT_SECONDS)
