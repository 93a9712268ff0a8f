"""Every way to call a ``ChatLLMKit`` over real HTTP: what the caller, his callbacks and the plugins are told. That each
call begins and ends once, however it ends, is in ``test_cells``."""

from __future__ import annotations

import httpx
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ModelError

from llmkit_plugins import NoTarget, Usage
from llmkit_plugins.testing.fake_provider import Fault

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")

MODES = (
    "invoke",
    "stream",
    "batch",
    "stream_events v3",
    "ainvoke",
    "astream",
    "abatch",
    "astream_events",
    "astream_events v3",
)
STREAMED = {"stream", "astream", "astream_events", "stream_events v3", "astream_events v3"}
CHAINED = [mode for mode in MODES if not mode.endswith("v3")]
CASES = [(mode, "bare") for mode in MODES] + [(mode, "chain") for mode in CHAINED]

times = {"batch": 2, "abatch": 2}


@pytest.fixture
def asked(model, chain_of, ask):
    """Ask the model, alone or in a chain."""

    async def asked(mode, where, config=None):
        return await ask(mode, model if where == "bare" else chain_of(model), config)

    return asked


@pytest.mark.parametrize(("mode", "where"), CASES)
async def test_ok(mode, where, asked, recorder, first, second):
    """The first provider answers: one request, one attempt and the provider's usage for each call."""
    calls = times.get(mode, 1)
    assert await asked(mode, where, {"metadata": {"user": "u1"}}) == ["one two three"] * calls
    assert recorder.counts["request ok"] == recorder.counts["attempt ok"] == recorder.counts["attempt"] == calls
    assert [attempt.usage for attempt in recorder.attempts] == [Usage(1, 3)] * calls
    assert {attempt.finish_reason for attempt in recorder.attempts} == {"stop"}
    assert {(call.user, call.stream) for call in recorder.calls} == {("u1", mode in STREAMED)}
    assert (first.stats.requests, second.stats.requests) == (calls, 0)


@pytest.mark.parametrize(("mode", "where"), [case for case in CASES if case[0] in STREAMED])
async def test_callbacks_hear_every_token_once(mode, where, asked):
    """The caller's own callbacks hear the text of a stream as it comes, and not twice."""
    heard = []

    class Tokens(BaseCallbackHandler):
        def on_llm_new_token(self, token, *, chunk=None, **_):
            heard.append(chunk.text)

    await asked(mode, where, {"callbacks": [Tokens()]})
    assert "".join(heard) == "one two three"
    assert len(heard) > 1


@pytest.mark.parametrize(("mode", "where"), CASES)
async def test_failover(mode, where, asked, recorder, first, second):
    """The first provider is down: the second one answers, and the caller does not notice."""
    first.fail_with(Fault("overloaded"))
    calls = times.get(mode, 1)
    assert await asked(mode, where) == ["four five"] * calls
    assert (recorder.counts["attempt error"], recorder.counts["attempt ok"]) == (calls, calls)
    assert recorder.counts["request ok"] == recorder.counts["request"] == calls
    assert {attempt.kind for attempt in recorder.attempts} == {"overloaded", None}
    assert second.stats.requests == calls


@pytest.mark.parametrize("mode", MODES)
async def test_no_target(mode, asked, kit, plugin, recorder):
    """A plugin drops every target: the error says which, and why."""
    kit.register(plugin(name="picky", route=lambda call, targets: []))
    with pytest.raises(NoTarget) as caught:
        await asked(mode, "bare")
    assert caught.value.reasons.keys() == {"first", "second"}
    assert isinstance(caught.value, ModelError)
    assert not caught.value.is_retryable
    assert recorder.counts["attempt"] == 0


@pytest.mark.parametrize("mode", sorted(STREAMED))
async def test_dies_half_way(mode, asked, recorder, first, second):
    """A provider that dies after its first words is not replaced: the caller has them already."""
    first.fail_with(Fault("disconnect", after_chunks=2))
    with pytest.raises(httpx.RemoteProtocolError):
        await asked(mode, "bare")
    assert [attempt.kind for attempt in recorder.attempts] == ["connection"]
    assert recorder.counts["attempt error"] == recorder.counts["request error"] == 1
    assert second.stats.requests == 0
