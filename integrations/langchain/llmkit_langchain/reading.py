"""What LangChain's answers and chunks tell of themselves, and what an attempt learns from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import Generation

from llmkit_langchain.complaints import complain
from llmkit_plugins import Attempt, Usage

_FINISH_REASONS = ("finish_reason", "stop_reason", "stopReason", "done_reason")


def learn(attempt: Attempt, generation: Generation, llm_output: Mapping[str, Any] | None = None) -> None:
    """Write onto *attempt* what *generation*, a whole answer or the next chunk of one, tells of it: as much as can be
    read, since the answer is good all the same."""
    message = getattr(generation, "message", None)
    try:
        if metadata := getattr(message, "usage_metadata", None):
            _learn_usage(attempt, metadata)
        elif message is None:
            _learn_tokens(attempt, (llm_output or {}).get("token_usage"))
        for told in (getattr(message, "response_metadata", None), generation.generation_info, llm_output):
            if told:
                _learn_end(attempt, told)
    except (AttributeError, TypeError, ValueError):
        complain("a model tells of its answer in a form that cannot be read: plugins do not hear of it")


def finish_reason_of(told: Mapping[str, Any]) -> str | None:
    """Why the provider stopped, by whichever name it says so."""
    for name in _FINISH_REASONS:
        reason: str | None = told.get(name)
        if reason:
            return reason
    return None


def _learn_usage(attempt: Attempt, metadata: UsageMetadata) -> None:
    if metadata.get("total_cost") == 0:  # how LangChain marks what its cache answered: nobody was asked, nothing is due
        attempt.started, attempt.usage = None, Usage()
        return
    usage = attempt.usage or Usage()  # the chunks of a stream each tell a part
    usage.input_tokens += metadata.get("input_tokens") or 0
    usage.output_tokens += metadata.get("output_tokens") or 0
    usage.cached_tokens += (metadata.get("input_token_details") or {}).get("cache_read") or 0
    usage.reasoning_tokens += (metadata.get("output_token_details") or {}).get("reasoning") or 0
    attempt.usage = usage


def _learn_tokens(attempt: Attempt, tokens: Any) -> None:
    """What models that are not chat models tell, in OpenAI's words."""
    if isinstance(tokens, Mapping):
        attempt.usage = Usage(tokens.get("prompt_tokens") or 0, tokens.get("completion_tokens") or 0)


def _learn_end(attempt: Attempt, told: Mapping[str, Any]) -> None:
    attempt.finish_reason = finish_reason_of(told) or attempt.finish_reason
    attempt.model = told.get("model_name") or told.get("model") or attempt.model
    if isinstance(headers := told.get("headers"), Mapping):
        attempt.headers = {str(name).lower(): str(value) for name, value in headers.items()}
