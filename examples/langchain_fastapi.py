"""A streaming endpoint: who asks too often is told when to come back, and who leaves costs nothing more.

Runs by itself, against a provider on this machine: ``python examples/langchain_fastapi.py``.
"""

import asyncio
from collections.abc import AsyncIterator
from math import ceil
from typing import Annotated, Any

import httpx
from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from llmkit_langchain import ChatLLMKit

from llmkit_plugins import Limit, LLMKit, MultiplexerPlugin, RateLimited, RateLimiterPlugin
from llmkit_plugins.testing import FakeProvider


def app_over(chain: Any) -> FastAPI:
    app = FastAPI()

    @app.get("/hello/{name}")
    async def hello(name: str, x_user: Annotated[str, Header()]) -> StreamingResponse:
        chunks = chain.astream({"name": name}, config={"metadata": {"user": x_user}})
        first = await anext(chunks)  # refused or failed so far, the status can still say so

        async def texts() -> AsyncIterator[str]:
            yield first
            async for text in chunks:
                yield text

        return StreamingResponse(texts(), media_type="text/plain")

    @app.exception_handler(RateLimited)
    async def too_many(request: Request, refusal: RateLimited) -> JSONResponse:
        wait = ceil(refusal.retry_after or 1)
        return JSONResponse({"limit": refusal.limit}, 429, {"Retry-After": str(wait)})

    return app


async def serve(provider: FakeProvider) -> None:
    limits = RateLimiterPlugin(limits=[Limit(requests="2/min", per="user", name="per user")])
    kit = LLMKit(plugins=[limits, MultiplexerPlugin()])
    fast = ChatOpenAI(model="gpt-4o", base_url=provider.url, api_key="any", max_retries=0)
    model = ChatLLMKit(models={"fast": fast}, kit=kit)
    app = app_over(ChatPromptTemplate.from_template("Say hello to {name}.") | model | StrOutputParser())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client, kit:
        for user in ("u1", "u1", "u1", "u2"):
            answer = await client.get("/hello/Ada", headers={"x-user": user})
            print(user, answer.status_code, answer.text, answer.headers.get("retry-after", ""))


def main() -> None:
    with FakeProvider(reply="Hello, Ada.") as provider:
        asyncio.run(serve(provider))


if __name__ == "__main__":
    main()
