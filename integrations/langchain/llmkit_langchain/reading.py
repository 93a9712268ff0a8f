"""What an attempt learns from LangChain's answers and chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import Generation

from llmkit_langchain.complaints import complain
from llmkit_plugins import Attempt, Usage

_FINISH_REASONS = ("finish_reason", "stop_reason", "stopReason", "done_reason")


def learn(attempt: Attempt, generation: Generation, llm_output: Mapping[str, Any] | None = None) -> None:
    """Record on *attempt* what *generation*, a whole answer or its next chunk, says: as much as can be read, since the
    answer is good anyway."""
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
    """Why the provider stopped, under whichever name it says so."""
    for name in _FINISH_REASONS:
        reason: str | None = told.get(name)
        if reason:
            return reason
    return None


def _learn_usage(attempt: Attempt, metadata: UsageMetadata) -> None:
    if metadata.get("total_cost") == 0:  # how LangChain marks answers from its cache: no request, no cost
        attempt.started, attempt.usage = None, Usage()
        return
    usage = attempt.usage or Usage()  # each chunk of a stream gives a part
    usage.input_tokens += metadata.get("input_tokens") or 0
    usage.output_tokens += metadata.get("output_tokens") or 0
    usage.cached_tokens += (metadata.get("input_token_details") or {}).get("cache_read") or 0
    usage.reasoning_tokens += (metadata.get("output_token_details") or {}).get("reasoning") or 0
    attempt.usage = usage


def _learn_tokens(attempt: Attempt, tokens: Any) -> None:
    """Read the usage of models other than chat models, in OpenAI's terms."""
    if isinstance(tokens, Mapping):
        attempt.usage = Usage(tokens.get("prompt_tokens") or 0, tokens.get("completion_tokens") or 0)


def _learn_end(attempt: Attempt, told: Mapping[str, Any]) -> None:
    attempt.finish_reason = finish_reason_of(told) or attempt.finish_reason
    attempt.model = told.get("model_name") or told.get("model") or attempt.model
    if isinstance(headers := told.get("headers"), Mapping):
        attempt.headers = {str(name).lower(): str(value) for name, value in headers.items()}
