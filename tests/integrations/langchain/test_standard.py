"""LangChain's own standard tests, over real HTTP: with models of one family and of two, and with the first one down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from llmkit_langchain import ChatLLMKit

from llmkit_plugins import LLMKit
from llmkit_plugins.testing.fake_provider import Fault
from llmkit_plugins.testing.fake_provider import chat as fake_chat
from llmkit_plugins.testing.fake_provider.schema import example_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning"),
    # ChatOpenAI's own: it dumps the parsed object of a structured answer, and says what it makes of a schema
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),
    pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema:UserWarning"),
]


class ChatBlocks(ChatOpenAI):
    """Wants its tools as Anthropic's models do, and nothing else; sends them on as OpenAI's."""

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):
        functions = [convert_to_openai_tool(tool)["function"] for tool in tools]
        own = [{"name": function["name"], "input_schema": function["parameters"]} for function in functions]
        if tool_choice:
            choice = {"type": "any"} if tool_choice == "any" else {"type": "tool", "name": tool_choice}
            kwargs["tool_choice"] = choice
        return self.bind(tools=own, **kwargs)

    def with_structured_output(self, schema, **kwargs):
        return BaseChatModel.with_structured_output(self, schema, **kwargs)

    def _get_request_payload(self, input_, *, stop=None, **kwargs):
        if "tools" in kwargs:
            kwargs["tools"] = [_from_blocks(tool) for tool in kwargs["tools"]]
        if choice := kwargs.get("tool_choice"):
            named = {"type": "function", "function": {"name": choice.get("name")}}
            kwargs["tool_choice"] = "required" if choice["type"] == "any" else named
        return super()._get_request_payload(input_, stop=stop, **kwargs)


def _from_blocks(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool["name"], "parameters": tool["input_schema"]}}


def _reply(body: Mapping[str, Any]) -> str:
    if (body.get("response_format") or {}).get("type") == "json_object":
        return json.dumps({"setup": "Why?", "punchline": "That is why."})
    return "one two three"


_EXPECTED = {"input": 3, "customer_name": "你好こんにちは"}
"""What the tests ask for in the prompt; the provider fills arguments by their schema alone."""


def _example_of(schema: Mapping[str, Any]) -> Any:
    return {name: _EXPECTED.get(name, value) for name, value in example_of(schema).items()}


class _Standard:
    """*families* are the classes of the models, asked in this order."""

    families: tuple[type[ChatOpenAI], ...] = (ChatOpenAI, ChatOpenAI)

    @pytest.fixture(autouse=True)
    def _over_two_providers(self, provider, chat_openai, monkeypatch):
        """The model's own parameters are those of the models it is over."""
        monkeypatch.setattr(fake_chat, "example_of", _example_of)
        self.providers = [provider(reply=_reply) for _ in self.families]

        def models(params: dict[str, Any]) -> dict[str, Any]:
            given = {**params, "max_retries": 0}
            return {
                f"m-{number}": chat_openai(provider, f"m-{number}", cls=family, **given)
                for number, (provider, family) in enumerate(zip(self.providers, self.families, strict=True))
            }

        kit = LLMKit(on_plugin_error="raise")

        class Made(ChatLLMKit):
            def __init__(self, **params: Any) -> None:
                super().__init__(models=models(params), kit=kit)

        self.made = Made

    @property
    def chat_model_class(self) -> type[ChatLLMKit]:
        return self.made

    @property
    def model_override_value(self) -> str:
        return "another-model"


class _FirstDown(_Standard):
    @pytest.fixture(autouse=True)
    def _first_is_down(self, _over_two_providers):
        self.providers[0].fail_with(Fault("overloaded"))


class TestUnit(_Standard, ChatModelUnitTests):
    """Two models of one family."""


class TestUnitOfTwoFamilies(_Standard, ChatModelUnitTests):
    """Two models that want their tools in different forms."""

    families = (ChatBlocks, ChatOpenAI)


class TestIntegration(_Standard, ChatModelIntegrationTests):
    """Two models of one family: structured output is native."""

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestIntegrationFirstDown(_FirstDown, ChatModelIntegrationTests):
    """The same, with every answer from the second one."""

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestIntegrationOfTwoFamilies(_Standard, ChatModelIntegrationTests):
    """The first wants its tools in another form than everybody's."""

    families = (ChatBlocks, ChatOpenAI)


class TestIntegrationOfTwoFamiliesFirstDown(_FirstDown, ChatModelIntegrationTests):
    """The second, which answers, wants its tools in another form than the first one."""

    families = (ChatOpenAI, ChatBlocks)
