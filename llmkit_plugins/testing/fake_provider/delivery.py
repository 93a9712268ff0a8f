"""How an answer reaches its client: whole or streamed, at its pace, and only as far as its fault allows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from aiohttp import web

from llmkit_plugins.call import Usage
from llmkit_plugins.testing.fake_provider.answer import Answer, TextAnswer
from llmkit_plugins.testing.fake_provider.behaviour import Behaviour
from llmkit_plugins.testing.fake_provider.faults import Fault
from llmkit_plugins.testing.fake_provider.pace import Pace
from llmkit_plugins.testing.fake_provider.stats import Ledger

_DONE = b"data: [DONE]\n\n"
_BROKEN = b'{"choices": [{"index": 0, "delta": {"conte'


class EventStream(web.StreamResponse):
    """A stream of server-sent events. The server sends its *ending* only after everything about the request has been
    counted, so a client that has read to the end finds complete counts."""

    ending = b""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__(headers={**headers, "content-type": "text/event-stream", "cache-control": "no-cache"})

    async def send(self, data: bytes) -> None:
        """Send one event."""
        await self.write(b"data: " + data + b"\n\n")

    async def write_eof(self, data: bytes = b"") -> None:
        """Called by the server."""
        await super().write_eof(data or self.ending)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One answer on its way to the client of *http*."""

    http: web.Request
    headers: Mapping[str, str]
    answer: Answer
    fault: Fault | None
    pace: Pace
    behaviour: Behaviour
    ledger: Ledger

    async def run(self) -> web.StreamResponse:
        """Send the response except for its end. Raises ``ConnectionError`` if the client turns out to be gone."""
        if self.fault is not None and self.fault.kind == "timeout":
            await _for_ever()
        if isinstance(self.answer, TextAnswer) and self.answer.order.stream:
            return await self._stream(self.answer)
        return await self._whole()

    async def _whole(self) -> web.StreamResponse:
        kind = None if self.fault is None else self.fault.kind
        if kind == "stall":
            await _for_ever()
        if kind == "disconnect":
            return self._cut(web.Response())
        await self.pace.until(self.answer.length)
        self.ledger.responded(200)
        if kind == "malformed":
            return self._json(_BROKEN)
        if kind == "empty":
            return self._json(b"")
        self._count(self.answer.usage)
        return self._json(_encoded(self.answer.whole()))

    async def _stream(self, answer: TextAnswer) -> web.StreamResponse:
        response = EventStream(self.headers)
        if self.fault is not None and self.fault.kind == "disconnect" and self.fault.after_chunks is None:
            return self._cut(response)
        await self.pace.until(0)
        self.ledger.responded(200, streamed=True)
        self._count(answer.usage_before_text)
        await response.prepare(self.http)
        most = None if self.fault is None else self.fault.after_chunks or 0
        sent = 0
        for chunk in islice(answer.chunks(), most):
            await self.pace.until(chunk.position)
            self._count(Usage(0, chunk.tokens))
            await response.send(_encoded(chunk.data))
            sent += 1
        if self.fault is not None and sent == most:
            return await self._break_off(response, self.fault)
        response.ending = _DONE
        return response

    async def _break_off(self, response: EventStream, fault: Fault) -> web.StreamResponse:
        if fault.kind == "stall":
            await _for_ever()
        if fault.kind == "disconnect":
            return self._cut(response)
        if fault.kind == "malformed":
            await response.send(_BROKEN)
        if fault.kind == "empty":
            response.ending = _DONE
        if fault.error is not None:
            await response.send(_encoded(fault.error.body))
        return response

    def _cut(self, response: web.StreamResponse) -> web.StreamResponse:
        """Close the connection after what was sent so far; the server notices when it continues with *response*."""
        if self.http.transport is not None:
            self.http.transport.close()
        return response

    def _json(self, body: bytes) -> web.Response:
        return web.Response(body=body, headers=self.headers, content_type="application/json")

    def _count(self, usage: Usage) -> None:
        self.ledger.sent(usage, self.behaviour.cost(usage))


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def _encoded(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data).encode()
