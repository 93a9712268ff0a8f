"""The success event of a caller who was answered without an attempt of his own: LiteLLM fires none for him.

He shares another's answer, or a plugin had one. LiteLLM's callbacks (a proxy's spend logs and slots, a user's own) hear
of him as of a hit of LiteLLM's cache: it cost nothing, and it is his: his key, his user, his metadata.
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
    """The whole *answer* to *request*; where no attempt of its own brought it, it is marked, and LiteLLM is told."""
    if not request.call.attempts and not _came_from_litellms_cache(request, answer):
        compat.mark_cached(answer, request.call.id)
        tell(request, answer)
    return answer


def _came_from_litellms_cache(request: Request, answer: Any) -> bool:
    """Whether LiteLLM had *answer* before it would have tried anything (a call with fallbacks); it has told so."""
    response = request.call.response
    own = response is not None and response.shared is None
    return own and bool(compat.hidden(answer).get("cache_hit"))


def tell(request: Request, answer: Any) -> None:
    """Tell LiteLLM's callbacks, in the background, that *request* was answered by *answer*, whole or all its chunks."""
    if not isinstance(answer[0] if isinstance(answer, list) else answer, BaseModel):
        return  # a plugin answered with something that LiteLLM does not know
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
    """The logging object of *request*: a proxy has made one, else one is made as LiteLLM itself does.

    Metadata says what group answered but not which deployment: that one has counted this answer already.
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
