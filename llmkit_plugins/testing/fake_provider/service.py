"""What happens to a request: it is recorded, perhaps assigned a fault, given an answer, admitted, and answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from itertools import count
from random import Random
from typing import Any

from aiohttp import web

from llmkit_plugins.call import new_id
from llmkit_plugins.testing.fake_provider.allowance import Allowances
from llmkit_plugins.testing.fake_provider.answer import Answer, Say
from llmkit_plugins.testing.fake_provider.api_error import ApiError
from llmkit_plugins.testing.fake_provider.behaviour import Behaviour
from llmkit_plugins.testing.fake_provider.capacity import Capacity
from llmkit_plugins.testing.fake_provider.chat import answer_chat
from llmkit_plugins.testing.fake_provider.completions import answer_completion
from llmkit_plugins.testing.fake_provider.delivery import Delivery
from llmkit_plugins.testing.fake_provider.embeddings import answer_embeddings
from llmkit_plugins.testing.fake_provider.faults import Fault, Schedule
from llmkit_plugins.testing.fake_provider.order import Order
from llmkit_plugins.testing.fake_provider.pace import Pace
from llmkit_plugins.testing.fake_provider.stats import Ledger, SeenRequest

Compose = Callable[[Order, Say], Answer]

ENDPOINTS: Mapping[str, tuple[str, Compose]] = {
    "/v1/chat/completions": ("chat", answer_chat),
    "/v1/completions": ("completions", answer_completion),
    "/v1/embeddings": ("embeddings", answer_embeddings),
}
_LARGEST_BODY = 64 * 2**20


class Service:
    """Answers requests as *behaviour* says. It belongs to one event loop and is used from nowhere else."""

    def __init__(self, behaviour: Behaviour, ledger: Ledger) -> None:
        self.closing = False
        """Whether requests cancelled from now on are cut off by the server, rather than by their clients."""
        self._ledger = ledger
        self._capacity = Capacity(ledger.occupied)
        self._behaviour = behaviour
        self.restart()
        self.adopt(behaviour)

    def restart(self) -> None:
        """Restart the request numbers, the replies in turn, and the limits."""
        self._numbers, self._turns = count(1), count()
        self._schedule = Schedule(self._behaviour.faults)
        self._allowances = Allowances(self._behaviour, time.monotonic())

    def adopt(self, behaviour: Behaviour) -> None:
        """Use *behaviour* from the next request on. Changed faults count requests anew; changed limits start full."""
        before, self._behaviour = self._behaviour, behaviour
        if behaviour.faults is not before.faults:
            self._schedule = Schedule(behaviour.faults)
        if _limits(behaviour) != _limits(before):
            self._allowances = Allowances(behaviour, time.monotonic())
        self._capacity.limit = behaviour.max_in_flight
        self._capacity.let_in()

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_get("/", self._health)
        app.router.add_get("/v1/models", self._models)
        for path in ENDPOINTS:
            app.router.add_post(path, self._serve)
        return app

    async def _health(self, _http: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _models(self, _http: web.Request) -> web.Response:
        self._ledger.arrived("models")
        self._ledger.responded(200)
        names = self._behaviour.models or ("fake-model",)
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "fake-provider"} for name in names]
        return web.json_response({"object": "list", "data": models})

    async def _serve(self, http: web.Request) -> web.StreamResponse:
        name, compose = ENDPOINTS[http.path]
        request_id = new_id()
        self._ledger.arrived(name)
        try:
            return await self._answer(http, name, compose, request_id)
        except ApiError as error:
            self._ledger.responded(error.status)
            return web.json_response(error.body, status=error.status, headers=self._headers(request_id) | error.headers)
        except ConnectionError:
            self._ledger.client_left()
            return web.Response()  # nobody is there to receive it
        except Exception:
            # a bug in a test's own reply function: the server logs it and answers 500
            self._ledger.responded(500)
            raise
        except asyncio.CancelledError:
            if not self.closing:
                self._ledger.client_left()
            raise

    async def _answer(self, http: web.Request, name: str, compose: Compose, request_id: str) -> web.StreamResponse:
        order = Order(_parsed(await http.read()), request_id, int(time.time()))
        self._ledger.seen(SeenRequest(name, order.body, {key.lower(): value for key, value in http.headers.items()}))
        behaviour = self._behaviour
        # each request has its own random numbers, so that it does not depend on what concurrent requests draw
        random = Random((behaviour.seed << 32) + next(self._numbers))
        fault = self._schedule.next(random)
        _refuse(order, fault)
        answer = self._compose(order, compose)
        self._allowances.take(answer.usage.total_tokens, time.monotonic())
        async with self._capacity:
            pace = Pace(behaviour, random, answer.length)
            headers = self._headers(request_id)
            return await Delivery(http, headers, answer, fault, pace, behaviour, self._ledger).run()

    def _compose(self, order: Order, compose: Compose) -> Answer:
        behaviour = self._behaviour
        if behaviour.models and order.model not in behaviour.models:
            raise ApiError(404, f"The model '{order.model}' does not exist.", param="model", code="model_not_found")
        answer = compose(order, lambda body: behaviour.say(body, next(self._turns)))
        answer.usage.cached_tokens = min(behaviour.cached_tokens, answer.usage.input_tokens)
        if answer.choices:
            answer.usage.reasoning_tokens = behaviour.reasoning_tokens
            answer.usage.output_tokens += behaviour.reasoning_tokens
        return answer

    def _headers(self, request_id: str) -> dict[str, str]:
        return {"x-request-id": f"req_{request_id}", **self._allowances.headers(time.monotonic())}


def _refuse(order: Order, fault: Fault | None) -> None:
    """Raise the error of *fault*, if it has one and does not wait for chunks of a stream."""
    if fault is not None and fault.error is not None and not (order.stream and fault.after_chunks is not None):
        raise fault.error


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise ApiError(400, "We could not parse the JSON body of your request: expected a JSON object.")
    return parsed


def _limits(behaviour: Behaviour) -> tuple[int | None, int | None]:
    return behaviour.requests_per_minute, behaviour.tokens_per_minute
