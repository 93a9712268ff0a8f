"""LiteLLM's proxy with the plugins, asked by the ``openai`` client.

Runs by itself, against providers on this machine: ``python examples/litellm_proxy/run.py``. What it starts is what you
would: ``LLMKIT_CONFIG=llmkit.toml litellm --config config.yaml``.
"""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai

from llmkit_plugins.testing import FakeProvider
from llmkit_plugins.testing.fake_provider import Fault

HERE = Path(__file__).parent
KEY = f"sk-{secrets.token_hex(32)}"


@contextmanager
def proxy(**urls: str) -> Iterator[str]:
    """Start the proxy, wait until it answers, yield its address, and stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    settings = {"LLMKIT_CONFIG": "llmkit.toml", "LITELLM_MASTER_KEY": KEY, "OPENAI_API_KEY": "any", **urls}
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # LiteLLM's prices as installed, not from the network
    litellm = [sys.executable, "-c", "from litellm import run_server; run_server()"]  # the command of that name
    command = [*litellm, "--config", "config.yaml", "--host", "127.0.0.1", "--port", port]
    process = subprocess.Popen(command, cwd=HERE, env={**os.environ, **offline, **settings}, stdout=subprocess.DEVNULL)
    try:
        while not is_up(url):
            if process.poll() is not None:
                sys.exit(f"the proxy has stopped with {process.returncode}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/liveliness").is_success
    except httpx.TransportError:
        return False


async def ask_together(url: str, clients: int) -> set[str]:
    """Ask the same as so many users at once, each for a stream; the answers."""

    async def ask(user: str) -> str:
        prompt = [{"role": "user", "content": "What is the news?"}]
        stream = await client.chat.completions.create(model="chat", messages=prompt, stream=True, user=user)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        return set(await asyncio.gather(*(ask(f"user {number}") for number in range(clients))))


def main() -> None:
    with (
        FakeProvider(reply="Hello from a provider.", first_token_seconds=0.2) as first,
        FakeProvider(reply="Hello from a provider.", first_token_seconds=0.2) as second,
        proxy(FIRST_URL=first.url, SECOND_URL=second.url) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client,
    ):
        answers = asyncio.run(ask_together(url, 30))
        requests = len(first.requests) + len(second.requests)
        print(f"30 clients: {len(answers)} answer, {requests} request to a provider")

        first.fail_with(Fault("overloaded"))
        answered = 0
        try:
            while True:
                prompt = [{"role": "user", "content": f"Question {answered}"}]
                client.chat.completions.create(model="chat", messages=prompt, user="ada")
                answered += 1
        except openai.RateLimitError as error:
            print(f"{answered} answers while one provider is down")
            print(f"then {error.status_code}, to come back in {error.response.headers['retry-after']} s")

        metrics = httpx.get(f"{url}/metrics/", headers={"authorization": f"Bearer {KEY}"}).text
        print(*(line for line in metrics.splitlines() if line.startswith("llmkit_upstream_calls_saved")), sep="\n")


if __name__ == "__main__":
    main()
