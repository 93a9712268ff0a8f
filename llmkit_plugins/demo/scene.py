"""The demo's set-up: three providers, one kit, a LangChain chain and a LiteLLM Router."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import litellm
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from llmkit_langchain import ChatLLMKit
from llmkit_litellm import LLMKitRouter
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from llmkit_plugins import LLMKit, Target
from llmkit_plugins.plugins.circuit_breaker import CircuitBreakerPlugin
from llmkit_plugins.plugins.multiplexer import MultiplexerPlugin
from llmkit_plugins.plugins.observability import ObservabilityPlugin
from llmkit_plugins.plugins.rate_limiter import Limit, RateLimiterPlugin
from llmkit_plugins.testing.fake_provider import FakeProvider, Fault, LogNormal

MODEL = "gpt-4o-mini"
ANY_KEY = SecretStr("local-providers-take-any-key")


@dataclass(frozen=True)
class Cast:
    """One provider: how it behaves and what it costs (USD per million tokens)."""

    seconds: float
    input_price: float
    output_price: float
    faults: tuple[Fault, ...] = ()


CASTS: Mapping[str, Cast] = {
    "swift": Cast(0.010, 2.50, 10.00, faults=(Fault("server_error", probability=0.08),)),
    "steady": Cast(0.025, 0.60, 2.40),
    "thrifty": Cast(0.060, 0.15, 0.60, faults=(Fault("rate_limit", probability=0.05, retry_after=1.0),)),
}


GREEDY = "greedy"
"""The user with a limit of its own: three requests at once, then two a second."""


class Scene:
    """Starts everything on entry and stops it on exit."""

    def __init__(self, metrics_port: int = 0) -> None:
        self.registry = CollectorRegistry()
        self.observability = ObservabilityPlugin(registry=self.registry, metrics_port=metrics_port)
        limits = [Limit(requests="2/s", burst=3, per=("user",), match={"user": GREEDY}, name="two a second")]
        self.rate_limiter = RateLimiterPlugin(limits=limits)
        self.multiplexer = MultiplexerPlugin()
        self.circuit_breaker = CircuitBreakerPlugin(open_seconds=1.0, ramp_seconds=1.0)
        self.providers = {name: _provider(cast, seed) for seed, (name, cast) in enumerate(CASTS.items())}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            for provider in self.providers.values():
                opening.enter_context(provider)
            self.http = await opening.enter_async_context(httpx.AsyncClient())
            opening.callback(setattr, litellm, "aclient_session", litellm.aclient_session)
            litellm.aclient_session = self.http
            plugins = [self.observability, self.rate_limiter, self.multiplexer, self.circuit_breaker]
            kit = LLMKit(plugins, [_target(n, c) for n, c in CASTS.items()])
            self.kit = await opening.enter_async_context(kit)
            self.chain = self._chain()
            self.router = self._router()
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.aclose()

    def _chain(self) -> Runnable[dict[str, Any], str]:
        models = {
            name: ChatOpenAI(
                model=MODEL,
                base_url=provider.url,
                api_key=ANY_KEY,
                max_retries=0,
                stream_usage=True,
                http_async_client=self.http,
            )
            for name, provider in self.providers.items()
        }
        prompt = ChatPromptTemplate.from_messages([("system", "You know about {topic}."), ("user", "{question}")])
        return prompt | ChatLLMKit(models=models, kit=self.kit) | StrOutputParser()

    def _router(self) -> LLMKitRouter:
        deployments = [
            {
                "model_name": "chat",
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": provider.url,
                    "api_key": ANY_KEY.get_secret_value(),
                },
                "model_info": {"id": name},
            }
            for name, provider in self.providers.items()
        ]
        return LLMKitRouter(model_list=deployments, kit=self.kit, num_retries=3, retry_after=0, disable_cooldowns=True)


def _provider(cast: Cast, seed: int) -> FakeProvider:
    return FakeProvider(
        first_token_seconds=LogNormal(cast.seconds, 0.4),
        per_token_seconds=cast.seconds / 10,
        faults=cast.faults,
        input_price=cast.input_price,
        output_price=cast.output_price,
        seed=seed,
    )


def _target(name: str, cast: Cast) -> Target:
    return Target(name, provider=name, model=MODEL, input_price=cast.input_price, output_price=cast.output_price)
