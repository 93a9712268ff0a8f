"""Two deployments behind one LiteLLM Router: the second answers where the first one fails.

Runs by itself, against providers on this machine: ``python examples/litellm_router_quickstart.py``.
"""

import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # LiteLLM's prices as installed, not from the network

from llmkit_litellm import LLMKitRouter

from llmkit_plugins import LLMKit
from llmkit_plugins.plugins.observability import ObservabilityPlugin
from llmkit_plugins.testing import FakeProvider
from llmkit_plugins.testing.fake_provider import Fault


def main() -> None:
    with FakeProvider(reply="Hello from the first one.") as first, FakeProvider(reply="I stepped in.") as second:
        kit = LLMKit(plugins=[ObservabilityPlugin()])
        access = {"model": "openai/gpt-4o-mini", "api_key": "any"}
        models = [
            {"model_name": "chat", "litellm_params": {**access, "api_base": first.url}},
            {"model_name": "chat", "litellm_params": {**access, "api_base": second.url}},
        ]
        router = LLMKitRouter(model_list=models, kit=kit, num_retries=1)
        prompt = [{"role": "user", "content": "Say hello to Ada."}]

        first.fail_with(Fault("overloaded"))
        answer = router.completion("chat", prompt, metadata={"user": "u1"})
        print(answer.choices[0].message.content)

        for chunk in router.completion("chat", prompt, stream=True):
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
