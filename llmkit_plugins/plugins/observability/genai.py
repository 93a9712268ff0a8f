"""The names from OpenTelemetry's GenAI semantic conventions, as strings of our own: the constants in
``opentelemetry-semantic-conventions`` are deprecated, and their successors not yet stable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmkit_plugins.call import Attempt, Call

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - a name, no secret
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
STREAM = "gen_ai.request.stream"
ERROR_TYPE = "error.type"

RUN = "invoke_workflow"
"""The operation name for a run of a chain, an agent or a graph."""

TOKEN_BUCKETS = tuple(float(4**k) for k in range(14))
"""The buckets of ``gen_ai.client.token.usage``."""

_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}

_PARAMETERS: Mapping[str, str] = {
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_tokens": "gen_ai.request.max_tokens",
    "n": "gen_ai.request.choice.count",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
    "temperature": "gen_ai.request.temperature",
    "top_k": "gen_ai.request.top_k",
    "top_p": "gen_ai.request.top_p",
}


def told_by(call: Call) -> Attempt | None:
    """The attempt that represents *call*: the one that answered it, its own or another call's, else its last."""
    if call.response is not None:
        return call.response.attempt
    return call.attempts[-1] if call.attempts else None


def provider_name(provider: str) -> str:
    """The conventions' name for *provider*, if it differs from the frameworks'."""
    return _PROVIDERS.get(provider, provider)


def request_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes for those request parameters that the conventions define."""
    told: dict[str, Any] = {}
    for name in _PARAMETERS.keys() & params.keys():
        value = params[name]
        if isinstance(value, int | float):
            told[_PARAMETERS[name]] = value
        elif name == "stop":
            told[_PARAMETERS[name]] = _texts(value)
    return {name: value for name, value in told.items() if value is not None}


def _texts(value: Any) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    return [str(text) for text in value] if isinstance(value, Sequence) else None


def attempt_attributes(call: Call, attempt: Attempt) -> dict[str, Any]:
    """The attributes that the conventions define for one request to a provider."""
    target, usage = attempt.target, attempt.usage
    told: dict[str, Any] = {
        OPERATION: call.operation,
        PROVIDER: provider_name(target.provider),
        REQUEST_MODEL: target.model,
    }
    if call.stream:
        told[STREAM] = True
    if call.params:
        told.update(request_parameters(call.params))
    if attempt.model is not None:
        told[RESPONSE_MODEL] = attempt.model
    if attempt.finish_reason is not None:
        told[FINISH_REASONS] = (attempt.finish_reason,)
    if attempt.first_chunk is not None:
        told[TIME_TO_FIRST_CHUNK] = attempt.time_to_first_chunk
    if usage is not None:
        told[INPUT_TOKENS], told[OUTPUT_TOKENS] = usage.input_tokens, usage.output_tokens
        if usage.cached_tokens:
            told[CACHED_TOKENS] = usage.cached_tokens
        if usage.reasoning_tokens:
            told[REASONING_TOKENS] = usage.reasoning_tokens
    return told


def error_type(kind: str | None, error: BaseException | None) -> str:
    """The ``error.type`` of a failure: its kind, else the class of the error."""
    return kind or (type(error).__qualname__ if error is not None else "unknown")
