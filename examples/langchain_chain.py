"""Two providers behind one chat model: the second answers where the first one fails.

Runs by itself, against providers on this machine: ``python examples/langchain_chain.py``.
"""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from llmkit_langchain import ChatLLMKit

from llmkit_plugins import LLMKit, ObservabilityPlugin
from llmkit_plugins.testing import FakeProvider
from llmkit_plugins.testing.fake_provider import Fault


def main() -> None:
    with FakeProvider(reply="Hello from the first one.") as first, FakeProvider(reply="I stepped in.") as second:
        kit = LLMKit(plugins=[ObservabilityPlugin()])
        fast = ChatOpenAI(model="gpt-4o", base_url=first.url, api_key="any", max_retries=0)
        cheap = ChatOpenAI(model="gpt-4o-mini", base_url=second.url, api_key="any", max_retries=0)
        model = ChatLLMKit(models={"fast": fast, "cheap": cheap}, kit=kit)
        chain = ChatPromptTemplate.from_template("Say hello to {name}.") | model | StrOutputParser()

        print(chain.invoke({"name": "Ada"}, config={"metadata": {"user": "u1"}}))

        first.fail_with(Fault("overloaded"))
        for text in chain.stream({"name": "Ada"}, config={"metadata": {"user": "u1"}}):
            print(text, end="", flush=True)
        print()

        print(model.invoke("Who answers?").response_metadata["llmkit"])


if __name__ == "__main__":
    main()
