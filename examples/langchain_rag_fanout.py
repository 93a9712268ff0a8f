"""Several documents are read at once for an answer, and what people ask at the same time is asked once.

Runs by itself, against a provider on this machine: ``python examples/langchain_rag_fanout.py``.
"""

import asyncio
from operator import itemgetter

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel
from langchain_openai import ChatOpenAI
from llmkit_langchain import ChatLLMKit

from llmkit_plugins import Limit, LLMKit, MultiplexerPlugin, RateLimiterPlugin
from llmkit_plugins.testing import FakeProvider

DOCUMENTS = {"a": "Ada wrote the first program.", "b": "It was for a machine of brass.", "c": "It was never built."}


async def ask(provider: FakeProvider, people: int) -> list[str]:
    limits = RateLimiterPlugin(limits=[Limit(concurrency=8, per="provider")], on_limit="wait")
    kit = LLMKit(plugins=[limits, MultiplexerPlugin()])
    model = ChatOpenAI(model="gpt-4o-mini", base_url=provider.url, api_key="any", max_retries=0)
    routed = ChatLLMKit(models={"mini": model}, kit=kit) | StrOutputParser()

    read = ChatPromptTemplate.from_template("What does this say about {question}? {document}")
    notes = {name: read.partial(document=text) | routed for name, text in DOCUMENTS.items()}
    answer = ChatPromptTemplate.from_template("{question}\n{notes}") | routed
    chain = RunnableParallel(question=itemgetter("question"), notes=RunnableParallel(notes)) | answer
    async with kit, model.root_async_client:
        config = [{"metadata": {"user": f"u{number}"}} for number in range(people)]
        return await asyncio.gather(*[chain.ainvoke({"question": "Ada"}, config=each) for each in config])


def main() -> None:
    with FakeProvider(reply="She wrote it for a machine that was never built.") as provider:
        provider.slow_down(first_token_seconds=0.5)
        answers = asyncio.run(ask(provider, people=10))
        print(answers[0])
        print(
            f"{len(answers)} answers, {len(answers) * (len(DOCUMENTS) + 1)} calls, {provider.stats.requests} requests"
        )


if __name__ == "__main__":
    main()
