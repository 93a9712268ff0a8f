"""Runs inside the proxy: what a platform team has there already, a callback and keys of its own."""

from __future__ import annotations

from journal import write
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import ProxyException, UserAPIKeyAuth


class Theirs(CustomLogger):
    """A callback that writes down every success and failure."""

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        logged = kwargs["standard_logging_object"]
        write(
            "theirs",
            what="success",
            model=logged["model_group"],
            cost=logged["response_cost"],
            hit=bool(logged["cache_hit"]),
            user=logged["metadata"]["user_api_key_user_id"],
        )

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time):
        write("theirs", what="failure", model=kwargs["standard_logging_object"]["model_group"])


callback = Theirs()


async def check_key(request, api_key):
    """``sk-USER-TEAM-PARALLEL`` is a key of that user and team, for so many requests at once."""
    try:
        _, user, team, parallel = api_key.split("-")
    except ValueError:
        raise ProxyException("no such key", "auth_error", "api_key", 401) from None
    return UserAPIKeyAuth(
        api_key=api_key, user_id=user, team_id=team or None, max_parallel_requests=int(parallel or 0) or None
    )
