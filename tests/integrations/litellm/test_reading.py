"""What answers and chunks say."""

from __future__ import annotations

import pytest
from litellm.types.utils import Delta, ModelResponse, ModelResponseStream, StreamingChoices
from litellm.types.utils import Usage as TheirUsage
from llmkit_litellm import compat, reading

from llmkit_plugins import Attempt, EmptyAnswer, Target, Usage


def chunk(finish_reason=None, **delta):
    return ModelResponseStream(choices=[StreamingChoices(finish_reason=finish_reason, delta=Delta(**delta))])


TOOL_CALL = {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}
SAY = [
    ({"content": "x"}, True),
    ({"tool_calls": [TOOL_CALL]}, True),
    ({"reasoning_content": "x"}, True),
    ({"finish_reason": "stop"}, True),
    ({"role": "assistant", "content": ""}, False),
    ({}, False),
]


@pytest.mark.parametrize(("given", "says"), SAY)
def test_what_says_something(given, says):
    """Content, a tool call, reasoning or a finish reason says something; a role does not."""
    assert reading.says(chunk(**given)) == says


def test_a_chunk_without_choices_says_nothing():
    """The last chunk of a stream may only have the usage."""
    assert not reading.says(ModelResponseStream(choices=[]))
    assert not reading.says(None)


def test_usage():
    """All that the provider counted; zeros are LiteLLM's word for a silent provider."""
    counted = TheirUsage(
        prompt_tokens=10,
        completion_tokens=5,
        total_tokens=15,
        prompt_tokens_details={"cached_tokens": 4},
        completion_tokens_details={"reasoning_tokens": 2},
    )
    assert reading.usage_of(counted) == Usage(10, 5, 4, 2)
    assert reading.usage_of(TheirUsage()) is None
    assert reading.usage_of(None) is None


def test_an_answer_from_the_cache_is_free():
    """It costs neither tokens nor money, though it carries the usage of the answer that was stored."""
    answer = ModelResponse(usage=TheirUsage(prompt_tokens=10, completion_tokens=5, total_tokens=15))
    answer._hidden_params = {"cache_hit": True, "response_cost": 0.1}
    attempt = Attempt(1, Target("t", "p", "m", input_price=1.0, output_price=1.0))
    reading.learn(attempt, answer)
    assert (attempt.usage, attempt.cost) == (None, 0.0)


def test_a_stream_from_the_cache_is_free_too():
    """So is an answer that is replayed in chunks."""
    stream = compat.unsent_stream("id", "m", [])
    stream.custom_llm_provider = "cached_response"
    attempt = Attempt(1, Target("t", "p", "m", input_price=1.0, output_price=1.0))
    last = chunk("stop")
    last.usage = TheirUsage(prompt_tokens=10, completion_tokens=5, total_tokens=15)
    assert reading.Reading(attempt, stream).read(last)
    assert (attempt.usage, attempt.cost, attempt.finish_reason) == (None, 0.0, "stop")


def test_a_stream_that_says_nothing():
    """Its end is an error."""
    read = reading.Reading(Attempt(1, Target("t", "p", "m")), compat.unsent_stream("id", "m", []))
    assert not read.read(chunk(role="assistant", content=""))
    with pytest.raises(EmptyAnswer):
        read.end()
