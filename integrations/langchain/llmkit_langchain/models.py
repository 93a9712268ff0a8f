"""The chat models given to a :class:`ChatLLMKit`: checking them, creating them by name, and what they share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.language_models import BaseChatModel, ModelProfile

from llmkit_plugins import ConfigError
from llmkit_plugins.given import called


def chat_models(models: Mapping[str, BaseChatModel | str]) -> dict[str, BaseChatModel]:
    """*models*, with those given by name (``openai:gpt-4o-mini``) created, without retries of their own. Raises
    ``ConfigError``."""
    right = '{"fast": ChatOpenAI(...), ...}'
    if not isinstance(models, Mapping):
        raise ConfigError(f"{called(models)} does not say which model has which name", key="models", right=right)
    if not models:
        raise ConfigError("there is no model", key="models", right=right)
    return {_name(name): _chat_model(name, model) for name, model in models.items()}


def _name(name: Any) -> str:
    if isinstance(name, str) and name:
        return name
    raise ConfigError(f"{name!r} is not a name", key="models", right="a text: it is that of a target")


def _chat_model(name: str, model: Any) -> BaseChatModel:
    if isinstance(model, BaseChatModel):
        return model
    right = "a chat model with nothing around it, or a name such as 'openai:gpt-4o-mini'"
    if not isinstance(model, str):
        raise ConfigError(f"{called(model)} is not a chat model", key=f"models.{name}", right=right)
    try:
        from langchain.chat_models import init_chat_model

        return init_chat_model(model, max_retries=0)
    except Exception as error:  # a provider's package has its own errors: no key, an unknown setting
        raise ConfigError(f"{model!r} cannot be made: {error}", key=f"models.{name}", right=right) from error


def warn_of_retries(models: Mapping[str, BaseChatModel], stacklevel: int) -> None:
    """Warn of models that retry by themselves: within one attempt, unseen by the kit, and slowly."""
    retrying = [name for name, model in models.items() if getattr(model, "max_retries", 0) != 0]
    if retrying:
        warnings.warn(
            f"{', '.join(retrying)}: max_retries is not 0, so the client itself retries within one attempt, which "
            "delays failover and hides errors from the plugins; pass max_retries=0",
            stacklevel=stacklevel + 1,
        )


def warn_of_callbacks(models: Mapping[str, BaseChatModel], heard: Any, stacklevel: int) -> None:
    """Warn of models with callbacks other than those *heard*: LangChain calls only those of the model it calls."""
    unheard = [name for name, model in models.items() if model.callbacks and model.callbacks != heard]
    if unheard:
        warnings.warn(
            f"{', '.join(unheard)}: the callbacks of a model that a ChatLLMKit sends to are not called; "
            "pass them to the ChatLLMKit",
            stacklevel=stacklevel + 1,
        )


def common_profile(models: Sequence[BaseChatModel]) -> ModelProfile | None:
    """What every one of *models* can do: the minimum of numbers, and the abilities that all have.

    Provider-native structured output only if all are of one class: others want it in other forms.
    """
    profiles = [cast("dict[str, Any]", model.profile or {}) for model in models]
    shared = set.intersection(*map(set, profiles))
    common = {key: least for key in sorted(shared) if (least := _least([p[key] for p in profiles])) is not None}
    if len({type(model) for model in models}) > 1 and "structured_output" in common:
        common["structured_output"] = False
    return cast("ModelProfile", common) if common else None


def _least(values: Sequence[Any]) -> Any:
    if all(isinstance(value, bool) for value in values):
        return all(values)
    if all(isinstance(value, int | float) for value in values):
        return min(values)
    return values[0] if all(value == values[0] for value in values) else None


def common_output_version(models: Sequence[BaseChatModel]) -> str | None:
    """The content format that all of *models* are set to, if they agree."""
    versions = {model.output_version for model in models}
    return versions.pop() if len(versions) == 1 else None
