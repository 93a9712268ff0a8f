"""A LiteLLM Router with the plugins: failover, a user's limit, and one request for all who ask the same at once.

Runs by itself, against providers on this machine: ``python examples/litellm_router.py``.
"""

import asyncio
import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # LiteLLM's prices as installed, not from the network

import litellm
from llmkit_litellm import LLMKitRouter

from llmkit_plugins import CircuitBreakerPlugin, Limit, LLMKit, MultiplexerPlugin, RateLimiterPlugin, RouterPlugin
from llmkit_plugins.testing import FakeProvider
from llmkit_plugins.testing.fake_provider import Fault


async def main(first: FakeProvider, second: FakeProvider) -> None:
    limiter = RateLimiterPlugin(limits=[Limit(requests="3/min", per=("user",))])
    kit = LLMKit(plugins=[limiter, MultiplexerPlugin(), RouterPlugin(), CircuitBreakerPlugin()])
    access = {"model": "openai/gpt-4o-mini", "api_key": "any"}
    models = [
        {"model_name": "chat", "litellm_params": {**access, "api_base": first.url}, "model_info": {"id": "first"}},
        {"model_name": "chat", "litellm_params": {**access, "api_base": second.url}, "model_info": {"id": "second"}},
    ]
    router = LLMKitRouter(model_list=models, kit=kit, num_retries=1)
    prompt = [{"role": "user", "content": "Hello!"}]

    first.fail_with(Fault("overloaded"))
    for _ in range(3):
        answer = await router.acompletion("chat", prompt, user="ann")
        print(answer.choices[0].message.content)

    try:
        await router.acompletion("chat", prompt, user="ann")
    except litellm.RateLimitError as error:
        print("ann may come back in", error.headers["retry-after"], "seconds")

    requests = first.stats.requests + second.stats.requests
    streams = await asyncio.gather(*(router.acompletion("chat", prompt, stream=True, user=f"u{n}") for n in range(20)))
    texts = await asyncio.gather(*map(text_of, streams))
    print(len(texts), "streams,", first.stats.requests + second.stats.requests - requests, "request:", *set(texts))


async def text_of(stream: litellm.CustomStreamWrapper) -> str:
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


if __name__ == "__main__":
    with FakeProvider(reply="First here.") as first, FakeProvider(reply="I stepped in.") as second:
        asyncio.run(main(first, second))
