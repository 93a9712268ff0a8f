"""An agent with two tools: its provider dies between two steps, and the other one goes on where it stopped.

Runs by itself, against providers on this machine: ``python examples/langchain_agent.py``.
"""

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from llmkit_langchain import LLMKitMiddleware

from llmkit_plugins import CircuitBreakerPlugin, LLMKit, ObservabilityPlugin
from llmkit_plugins.testing import FakeProvider
from llmkit_plugins.testing.fake_provider import Fault


def weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


def local_time(city: str) -> str:
    """The time in a city."""
    return "noon"


def main() -> None:
    with FakeProvider() as first, FakeProvider(reply="It is noon, and sunny.") as second:
        fast = ChatOpenAI(model="gpt-4o", base_url=first.url, api_key="any", max_retries=0)
        cheap = ChatOpenAI(model="gpt-4o-mini", base_url=second.url, api_key="any", max_retries=0)
        kit = LLMKit(plugins=[ObservabilityPlugin(), CircuitBreakerPlugin(consecutive_failures=1)])
        middleware = LLMKitMiddleware(kit, models={"fast": fast, "cheap": cheap})
        agent = create_agent(fast, [weather, local_time], middleware=[middleware])

        first.fail_with(Fault("overloaded", on=range(2, 100)))
        question = {"messages": [("user", "What time is it in Rome, and how is the weather?")]}
        state = agent.invoke(question, config={"metadata": {"user": "u1"}})
        for message in state["messages"][1:]:
            said = message.text or f"{message.tool_calls[0]['name']}?"
            route = message.response_metadata.get("llmkit", {})
            print(f"{message.type:5} {route.get('target', ''):6} {said}")
        print(f"asked {first.stats.requests} and {second.stats.requests} times")


if __name__ == "__main__":
    main()
