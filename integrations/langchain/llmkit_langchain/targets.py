"""Chat models as targets: the kit's own if it has one, else created once from what the model reports about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from llmkit_plugins import LLMKit, Target

_PROVIDERS = {
    "amazon_bedrock": "bedrock",
    "fireworks": "fireworks_ai",
    "google_genai": "gemini",
    "google_vertexai": "vertex_ai",
    "together": "together_ai",
}
"""LangChain's provider names that differ from LiteLLM's, so that a kit under both has one name for each."""

MOST_TARGETS = 1024
"""How many are remembered: model names may be arbitrary."""

# plugins keep state by target: the same model must be the same target, however many adapters are created for it
_made: WeakKeyDictionary[LLMKit, dict[tuple[str, str, str], Target]] = WeakKeyDictionary()


def target_named(kit: LLMKit, name: str, ls_params: Mapping[str, Any]) -> Target:
    """The target *name* of *kit*, else one created for the model that *ls_params* describes."""
    for target in kit.targets:
        if target.name == name:
            return target
    return _make(kit, name, *_told(ls_params))


def target_for(kit: LLMKit, ls_params: Mapping[str, Any]) -> Target:
    """The first target of *kit* with the model that *ls_params* describes, else one created for it."""
    provider, model = _told(ls_params)
    for target in kit.targets:
        if (target.provider, target.model) == (provider, model):
            return target
    return _make(kit, f"{provider}/{model}", provider, model)


def _told(ls_params: Mapping[str, Any]) -> tuple[str, str]:
    provider = ls_params.get("ls_provider") or "unknown"
    return _PROVIDERS.get(provider, provider), ls_params.get("ls_model_name") or provider


def _make(kit: LLMKit, name: str, provider: str, model: str) -> Target:
    made, key = _made.setdefault(kit, {}), (name, provider, model)
    known = made.get(key)  # creating one takes as long as everything else a handler does
    if known is None:
        if len(made) >= MOST_TARGETS:
            made.clear()
        known = made.setdefault(key, Target(*key))
    return known
