"""Success events for callers answered without an attempt of their own, for which LiteLLM fires none.

They share another caller's answer, or a plugin supplied one. LiteLLM's callbacks (a proxy's spend logs and slots, a
user's own) see a hit in LiteLLM's cache: at no cost, with the caller's own key, user and metadata.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from llmkit_litellm import compat
from llmkit_litellm.operations import Request

log = logging.getLogger("llmkit")


def told(request: Request, answer: Any) -> Any:
    """Returns the whole *answer* to *request*; if it took no attempt of its own, marks it and tells LiteLLM."""
    if not request.call.attempts and not _came_from_litellms_cache(request, answer):
        compat.mark_cached(answer, request.call.id)
        tell(request, answer)
    return answer


def _came_from_litellms_cache(request: Request, answer: Any) -> bool:
    """Whether LiteLLM had *answer* in its cache before any attempt (a call with fallbacks), and has reported it."""
    response = request.call.response
    own = response is not None and response.shared is None
    return own and bool(compat.hidden(answer).get("cache_hit"))


def tell(request: Request, answer: Any) -> None:
    """Tell LiteLLM's callbacks, in the background, that *request* got *answer*: a whole answer, or all its chunks."""
    if not isinstance(answer[0] if isinstance(answer, list) else answer, BaseModel):
        return  # a plugin answered with something LiteLLM does not know
    ended = datetime.now()
    if request.awaits:
        compat.log_later(_atell(request, answer, ended))
    else:
        compat.log_in_thread(_tell, request, answer, ended)


def _tell(request: Request, answer: Any, ended: datetime) -> None:
    try:
        compat.tell_of_hit(_log_of(request), _whole(request, answer), request.began, ended)
    except Exception:
        log.warning("LiteLLM's callbacks could not be told of a shared answer", exc_info=True)


async def _atell(request: Request, answer: Any, ended: datetime) -> None:
    try:
        await compat.atell_of_hit(_log_of(request), _whole(request, answer), request.began, ended)
    except Exception:
        log.warning("LiteLLM's callbacks could not be told of a shared answer", exc_info=True)


def _log_of(request: Request) -> Any:
    """The logging object of *request*: the proxy's, else one made the way LiteLLM does.

    Its metadata names the model group but not the deployment, which has already counted this answer.
    """
    arguments = request.arguments
    logged = arguments.get("litellm_logging_obj")
    if logged is None:
        logged = compat.new_log(request.function, request.began, arguments, request.call.id)
    metadata = {**(arguments.get("metadata") or arguments.get("litellm_metadata") or {})}
    metadata.setdefault("model_group", request.call.model)
    attempt = None if request.call.response is None else request.call.response.attempt
    compat.describe(
        logged,
        model=request.call.model if attempt is None else attempt.target.model,
        provider="" if attempt is None else attempt.target.provider,
        user=arguments.get("user"),
        params={
            "metadata": metadata,
            "proxy_server_request": arguments.get("proxy_server_request"),
            "acompletion": request.awaits,
        },
    )
    return logged


def _whole(request: Request, answer: Any) -> Any:
    if not isinstance(answer, list):
        return answer
    whole = compat.assembled(answer, request.call.messages)
    compat.mark_cached(whole, request.call.id)
    return whole
