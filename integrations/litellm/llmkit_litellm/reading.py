"""What LiteLLM's answers and chunks say: whether they say anything, and what an attempt learns from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmkit_litellm import compat
from llmkit_plugins.call import Attempt, Usage
from llmkit_plugins.errors import EmptyAnswer

_CONTENT = (
    "content",
    "tool_calls",
    "function_call",
    "reasoning_content",
    "thinking_blocks",
    "audio",
    "images",
    "annotations",
)

_ANNOUNCEMENTS = frozenset({"response.created", "response.queued", "response.in_progress"})
"""Events of the responses API that only announce an answer."""

_ENDS = {"completed": "stop", "incomplete": "length", "failed": "error"}
"""The final statuses of an answer of the responses API, and the finish reason for each."""


def learn(attempt: Attempt, answer: Any) -> None:
    """Record on *attempt* what a whole *answer* says."""
    learn_headers(attempt, answer)
    hidden = compat.hidden(answer)
    _learn_words(attempt, answer)
    cost = hidden.get("response_cost")
    attempt.reported_cost = float(cost) if cost else None  # LiteLLM says 0 if it does not know
    if hidden.get("cache_hit"):
        _free(attempt)


def learn_headers(attempt: Attempt, answer: Any) -> None:
    """Record on *attempt* the response headers of *answer*, whole or streamed."""
    attempt.headers = compat.response_headers(answer) or None


class Reading:
    """What *attempt* learns from its stream, chunk by chunk."""

    __slots__ = ("attempt", "cached", "said", "stream")

    def __init__(self, attempt: Attempt, stream: Any) -> None:
        self.attempt, self.stream = attempt, stream
        self.said = False
        """Whether the stream has said something."""
        self.cached = compat.is_cached(stream)
        learn_headers(attempt, stream)

    def read(self, chunk: Any) -> bool:
        """Learn from *chunk*; True if it is the first that says something. Raises ``EmptyAnswer`` if all it says is an
        end that LiteLLM made up."""
        begins = not self.said and says(chunk)
        if begins and compat.made_up_the_end(self.stream):
            raise EmptyAnswer("the stream ended before it said anything")
        _learn_words(self.attempt, chunk)
        if self.cached:
            _free(self.attempt)
        self.said = self.said or begins
        return begins

    def end(self) -> None:
        """Called after the last chunk. Raises ``EmptyAnswer`` if none said anything."""
        if not self.said:
            raise EmptyAnswer("the stream ended before it said anything")


def _learn_words(attempt: Attempt, answer: Any) -> None:
    said = compat.attributes(answer)
    if (whole := said.get("response")) is not None:  # the last event of the responses API
        said = compat.attributes(whole)
    ended = None
    for choice in said.get("choices") or ():
        ended = compat.attribute(choice, "finish_reason") or ended
    if ended is not None:
        attempt.finish_reason = ended
    elif (status := said.get("status")) in _ENDS:
        attempt.finish_reason = compat.attribute(said.get("incomplete_details"), "reason") or _ENDS[status]
    hidden = compat.hidden(answer)
    if attempt.model is None:
        attempt.model = hidden.get("provider_response_model") or said.get("model")
    counted = said.get("usage") or hidden.get("usage")
    if counted is not None and (usage := usage_of(counted)) is not None:
        attempt.usage = usage


def _free(attempt: Attempt) -> None:
    """Record that it came from LiteLLM's cache: no provider counted tokens for it."""
    attempt.usage, attempt.reported_cost = None, 0.0


def usage_of(usage: Any) -> Usage | None:
    """The tokens in LiteLLM's *usage*; None if it counts none (it writes zeros if the provider reports nothing)."""
    said = compat.attributes(usage)
    if not said.get("total_tokens"):
        return None
    given, answered = ("input", "output") if "input_tokens" in said else ("prompt", "completion")
    return Usage(
        input_tokens=said.get(f"{given}_tokens") or 0,
        output_tokens=said.get(f"{answered}_tokens") or 0,
        cached_tokens=_detail(said, given, "cached_tokens"),
        reasoning_tokens=_detail(said, answered, "reasoning_tokens"),
    )


def _detail(said: Mapping[str, Any], side: str, name: str) -> int:
    details = said.get(f"{side}_tokens_details")
    return 0 if details is None else compat.attribute(details, name) or 0


def says(chunk: Any) -> bool:
    """Whether *chunk* says something: content, a tool call, a finish reason, or an event of the responses API that is
    more than an announcement."""
    for choice in compat.attribute(chunk, "choices") or ():
        if compat.attribute(choice, "finish_reason") is not None or compat.attribute(choice, "text"):
            return True
        delta = compat.attributes(compat.attribute(choice, "delta"))
        if any(delta.get(name) for name in _CONTENT):
            return True
    event = compat.attribute(chunk, "type")
    return event is not None and event not in _ANNOUNCEMENTS
