"""The plugins around LiteLLM's own functions, with one line: ``install(kit)``.

Runs by itself, against a provider on this machine: ``python examples/litellm_sdk.py``.
"""

import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # LiteLLM's prices as installed, not from the network

import litellm
from llmkit_litellm import install, uninstall

from llmkit_plugins import Limit, LLMKit, ObservabilityPlugin, RateLimiterPlugin
from llmkit_plugins.testing import FakeProvider


def main() -> None:
    limits = [Limit(requests="3/min", per=("user",))]
    install(LLMKit(plugins=[ObservabilityPlugin(), RateLimiterPlugin(limits=limits)]))
    prompt = [{"role": "user", "content": "Hello!"}]
    answer = litellm.completion("openai/gpt-4o-mini", prompt, user="ann")
    print(answer.choices[0].message.content)
    for chunk in litellm.completion("openai/gpt-4o-mini", prompt, user="ann", stream=True):
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
    vectors = litellm.embedding("openai/text-embedding-3-small", input=["Hello!"], user="ann")
    print(len(vectors.data), "vector")
    try:
        litellm.completion("openai/gpt-4o-mini", prompt, user="ann")
    except litellm.RateLimitError as error:
        print("ann may come back in", error.headers["retry-after"], "seconds")
    uninstall()


if __name__ == "__main__":
    with FakeProvider(reply="Hello, Ann.") as provider:
        os.environ.update(OPENAI_BASE_URL=provider.url, OPENAI_API_KEY="any")
        main()
