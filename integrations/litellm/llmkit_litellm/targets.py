"""Where LiteLLM sends to, as :class:`~llmkit_plugins.Target`: Router deployments, and models named by SDK calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import litellm

from llmkit_plugins.call import Target

_LIMITS = ("rpm", "tpm", "max_parallel_requests", "region_name", "api_base", "order")
_PRICES = ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
_READ = ("model", "custom_llm_provider", "base_model", "weight", "tags", *_LIMITS, *_PRICES)
"""The parameters of a deployment that make a target what it is."""

_PER_MILLION = 1e6


class Book:
    """The targets of one Router by deployment id: the same object while the deployment is unchanged. One of *own*, a
    kit's targets, stands for the deployment whose id is its name."""

    holds_all = False
    """Whether everything LiteLLM sends for a call is one of its attempts; a Router's attempts name a deployment."""

    def __init__(self, own: Sequence[Target] = ()) -> None:
        self.own = own
        self._named = {target.name: target for target in own}
        self._known: dict[str, tuple[Any, Target]] = {}
        self._seen: dict[int, tuple[Any, Any, Target]] = {}

    def target(self, deployment: Mapping[str, Any]) -> Target:
        """The target for *deployment*, an entry in a Router's model list."""
        params = deployment["litellm_params"]
        seen = self._seen.get(id(deployment))
        if seen is not None and seen[0] is deployment and seen[1] is params:
            return seen[2]  # a Router offers the same objects again and again: a tenth of the time
        target = self._target(deployment.get("model_name"), params, deployment.get("model_info"))
        if len(self._seen) >= 2 * len(self._known) + 16:
            self._seen.clear()
        self._seen[id(deployment)] = deployment, params, target
        return target

    def sent(self, kwargs: Mapping[str, Any]) -> Target:
        """The target a Router sends *kwargs* to without selecting one (it was asked for a deployment by its id)."""
        metadata = kwargs.get("metadata") or kwargs.get("litellm_metadata") or {}
        return self._target(metadata.get("deployment_model_name"), kwargs, kwargs.get("model_info"))

    def _target(self, group: str | None, params: Mapping[str, Any], info: Mapping[str, Any] | None) -> Target:
        info = info or {}
        name = str(info.get("id") or group)
        if name in self._named:
            return self._named[name]
        made_of = group, {key: params[key] for key in _READ if params.get(key) is not None}, info
        known = self._known.get(name)
        if known is None or known[0] != made_of:
            known = self._known[name] = made_of, _make(name, *made_of)
        return known[1]


def _make(name: str, group: str | None, params: Mapping[str, Any], info: Mapping[str, Any]) -> Target:
    provider, model = provider_of(params["model"], params.get("custom_llm_provider"), params.get("api_base"))
    metadata = {key: value for key, value in info.items() if value is not None and key != "id"}
    metadata |= {key: params[key] for key in _LIMITS if key in params}
    metadata |= {"model_group": group, "tags": tuple(params.get("tags", ()))}
    if "api_base" in metadata:
        metadata["api_base"] = _place(metadata["api_base"])
    return Target(
        name=name,
        provider=provider,
        model=model,
        weight=max(0.0, float(params.get("weight", 1.0))),
        metadata=metadata,
        **prices(info.get("base_model") or params.get("base_model") or model, provider, {**info, **params}),
    )


class Fallbacks(Book):
    """The targets of an SDK call with its own fallbacks."""

    holds_all = True

    def sent(self, kwargs: Mapping[str, Any]) -> Target:
        return target_of(kwargs)


def target_of(arguments: Mapping[str, Any]) -> Target:
    """The target that the *arguments* of an SDK call name."""
    api_base = arguments.get("api_base") or arguments.get("base_url")
    return sdk_target(str(arguments.get("model")), arguments.get("custom_llm_provider"), api_base)


@lru_cache(maxsize=1024)
def sdk_target(model: str, provider: str | None = None, api_base: str | None = None) -> Target:
    """The target that an SDK call names by its *model*, and by *provider* or *api_base* if given."""
    runs, known_as = provider_of(model, provider, api_base)
    name = f"{runs}/{known_as}"
    if api_base is None:
        return Target(name=name, provider=runs, model=known_as, **prices(known_as, runs, {}))
    place = _place(api_base)
    return Target(f"{name}@{place}", runs, known_as, metadata={"api_base": place}, **prices(known_as, runs, {}))


def _place(api_base: str) -> str:
    """*api_base* without anything that may be secret: a password, a key in the query."""
    try:
        url = urlsplit(api_base)
    except ValueError:  # LiteLLM will say so itself
        return "nowhere"
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path.rstrip('/')}"


def provider_of(model: str, provider: str | None, api_base: str | None) -> tuple[str, str]:
    """The provider that runs *model*, and its name there. If LiteLLM cannot tell, it will say so itself when it
    sends."""
    try:
        known_as, runs, _, _ = litellm.get_llm_provider(model=model, custom_llm_provider=provider, api_base=api_base)
    except Exception:
        return provider or "unknown", model
    return runs, known_as


def prices(model: str, provider: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The prices of a target: its *own*, else those in LiteLLM's map; None if unknown or negative."""
    try:
        info: Mapping[str, Any] = dict(litellm.get_model_info(model=model, custom_llm_provider=provider))
    except Exception:  # LiteLLM raises a bare Exception for an unknown model
        info = {}
    mapped = litellm.model_cost.get(info.get("key"), info)  # a Router adds unknown models, at a price of 0

    per_token = [own.get(key, mapped.get(key)) for key in _PRICES]
    per_million = [None if price is None or float(price) < 0 else float(price) * _PER_MILLION for price in per_token]
    return dict(zip(("input_price", "output_price", "cached_price"), per_million, strict=True))
