"""What ``ChatLLMKit`` makes of its models: targets, tools, structured output, profiles, copies, caches, limiters."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import RunnableBinding
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from llmkit_langchain import ChatLLMKit
from pydantic import BaseModel, Field

from llmkit_plugins import Answer, ConfigError, LLMKit, Response, Target, Usage
from llmkit_plugins.testing import ManualClock
from llmkit_plugins.testing.fake_provider import Fault


class Weather(BaseModel):
    """The weather somewhere."""

    city: str
    days: int


# -- whose call it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["invoke", "stream", "batch", "ainvoke", "astream", "abatch", "astream_events"])
@pytest.mark.parametrize("where", ["bare", "chain"])
async def test_user_and_tenant(mode, where, model, chain_of, ask, recorder):
    """The user, the tenant and whatever else plugins want to know come from the run's metadata."""
    metadata = {"user": None, "user_id": 7, "tenant": "t1", "flag": "x"}
    await ask(mode, model if where == "bare" else chain_of(model), {"metadata": metadata})
    for call in recorder.calls:
        assert (call.user, call.tenant, call.metadata["flag"]) == ("7", "t1", "x")


@pytest.mark.parametrize("mode", ["invoke", "stream", "ainvoke", "astream"])
async def test_metadata_from_elsewhere(mode, first, chat_openai, kit, ask, recorder):
    """The model's own metadata counts, and that of a run it is a child of."""
    model = ChatLLMKit(models={"a": chat_openai(first, "m")}, kit=kit, metadata={"tenant": "t1"})
    parent = CallbackManager.configure(inheritable_metadata={"user": "u1"})
    await ask(mode, model, {"callbacks": parent})
    assert [(call.user, call.tenant) for call in recorder.calls] == [("u1", "t1")]


async def test_nothing_is_left_behind_by_a_call(model, recorder):
    """The next call has its own user, also in the same task and while a stream is being read."""
    chunks = model.astream("hi", {"metadata": {"user": "u1"}})
    await anext(chunks)
    await model.ainvoke("hi")
    list(model.stream("hi"))
    await chunks.aclose()
    list(model.stream("hi", {"metadata": {"user": "u2"}}))
    list(model._stream([HumanMessage("hi")]))  # as another model over this one asks it, below its run level
    assert [call.user for call in recorder.calls] == ["u1", None, None, "u2", None]


async def test_call_has_the_id_of_its_run(model, recorder, ask):
    """The request id is LangChain's run id, so that traces and logs meet."""
    seen = []

    class Run(BaseCallbackHandler):
        def on_chat_model_start(self, serialized, messages, *, run_id, **_):
            seen.append(str(run_id))

    for mode in ("invoke", "ainvoke", "stream", "astream"):
        await ask(mode, model, {"callbacks": [Run()]})
    assert [call.id for call in recorder.calls] == seen
    assert len(set(seen)) == 4


def test_parameters_reach_the_call_and_the_provider(model, recorder, first):
    """What is bound or passed is in the call's parameters, and arrives at the provider."""
    model.bind(temperature=0.5).invoke("hi", stop=["x"], seed=7)
    assert recorder.calls[0].params.items() >= {"temperature": 0.5, "stop": ["x"], "seed": 7}.items()
    body = first.requests[0].body
    assert (body["temperature"], body["stop"], body["seed"]) == (0.5, ["x"], 7)
    assert "credential" not in body


def test_models_with_other_keys_are_told_apart(kit, recorder, first, chat_openai):
    """Calls that look alike differ in ``credential`` where the models may have other keys; never in what is bound."""
    models = [ChatLLMKit(models={"a": chat_openai(first, "m", api_key=key)}, kit=kit) for key in ("k1", "k2")]
    for model in (*models, models[0].bind_tools([Weather]), copy.deepcopy(models[0])):
        model.invoke("hi")
    one, other, bound, copied = [call.params["credential"] for call in recorder.calls]
    assert one == bound == copied != other
    assert "k1" not in one


# -- targets ----------------------------------------------------------------------------------------------------------


def test_targets_of_the_kit_give_the_prices(recorder, first, chat_openai):
    """A model of the name of a target of the kit is that target; others get one of their own."""
    target = Target("fast", "openai", "m-1", input_price=1e6, output_price=1e6)
    kit = LLMKit([recorder], [target])
    ChatLLMKit(models={"fast": chat_openai(first, "m-1")}, kit=kit).invoke("hi")
    assert recorder.attempts[0].target is target
    assert recorder.attempts[0].cost == 4.0
    ChatLLMKit(models={"other": chat_openai(first, "m-1")}, kit=kit).invoke("hi")
    made = recorder.attempts[1].target
    assert (made.name, made.provider, made.model) == ("other", "openai", "m-1")


def test_same_model_is_the_same_target(recorder, kit, first, chat_openai):
    """Plugins keep their state by target: it does not change when a model is made anew for a request."""
    for _ in range(2):
        ChatLLMKit(models={"a": chat_openai(first, "m-1")}, kit=kit).invoke("hi")
    assert recorder.attempts[0].target is recorder.attempts[1].target


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("openai", "openai"), ("amazon_bedrock", "bedrock"), ("google_genai", "gemini"), ("azure", "azure")],
)
def test_providers_have_one_name(theirs, ours, kit, recorder):
    """A provider is called under LangChain as it is under LiteLLM."""

    class Named(FakeListChatModel):
        def _get_ls_params(self, stop=None, **kwargs):
            return {**super()._get_ls_params(stop, **kwargs), "ls_provider": theirs, "ls_model_name": "m"}

    ChatLLMKit(models={"a": Named(responses=["x"])}, kit=kit).invoke("hi")
    assert (recorder.attempts[0].target.provider, recorder.attempts[0].target.model) == (ours, "m")


@pytest.mark.parametrize("asked", ["second", "m-2"])
def test_a_route_may_be_asked_for(asked, model, recorder, first, second):
    """``model=`` means the route of that name, or of that model; the provider gets its own model."""
    assert model.invoke("hi", model=asked).text == "four five"
    assert second.requests[0].model == "m-2"
    assert first.stats.requests == 0
    assert recorder.calls[0].params["model"] == asked
    assert model._get_ls_params(model=asked)["ls_model_name"] == "m-2"


def test_another_model_may_be_asked_for(model, first):
    """``model=`` that is no route is the model that the provider is asked for."""
    assert model.invoke("hi", model="m-3").response_metadata["model_name"] == "m-3"
    assert first.requests[0].model == "m-3"


# -- tools and structured output --------------------------------------------------------------------------------------


class Blocks(GenericFakeChatModel):
    """Wants tools in a form of its own; remembers what it was sent."""

    sent: list[Any] = Field(default_factory=list)

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):
        return self.bind(blocks=[tool.__name__ for tool in tools], chosen=tool_choice, **kwargs)

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.sent.append(kwargs)
        return super()._generate(messages, stop, run_manager)


def test_each_model_gets_tools_in_its_own_form(kit, recorder, first, chat_openai):
    """Tools are bound to each model by itself; plugins see OpenAI's form, tracers' parameters go nowhere."""
    blocks = Blocks(messages=iter([AIMessage("x")]))
    model = ChatLLMKit(models={"openai": chat_openai(first, "m-1"), "blocks": blocks}, kit=kit)
    bound = model.bind_tools([Weather], tool_choice="any", ls_structured_output_format={"schema": Weather})
    assert isinstance(bound, RunnableBinding)
    assert bound.invoke("hi").tool_calls[0]["name"] == "Weather"
    first.fail_with(Fault("overloaded"))
    assert bound.invoke("hi").text == "x"
    assert first.requests[0].body["tools"][0]["function"]["name"] == "Weather"
    assert blocks.sent == [{"blocks": ["Weather"], "chosen": "any"}]
    assert recorder.calls[0].params["tools"][0]["function"]["name"] == "Weather"
    assert recorder.calls[0].params["tool_choice"] == "any"


def test_tools_of_the_call_win(model, first):
    """Tools passed in a call replace the bound ones."""
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
    assert model.bind_tools([Weather]).invoke("hi", tools=[other]).tool_calls[0]["name"] == "other"


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_tools_end_with_their_binding(method, model, first):
    """What is made of a model with tools and binds none itself sends none, as with any chat model."""
    bound: Any = model.bind_tools([Weather], tool_choice="any")
    first.change(reply=json.dumps({"city": "Rome", "days": 2}))
    assert bound.with_structured_output(Weather, method=method).invoke("hi") == Weather(city="Rome", days=2)
    assert bound.bound.invoke("hi").tool_calls == []
    assert not any({"tools", "tool_choice"} & set(request.body) for request in first.requests)


def test_built_in_tools_stay_as_they_are(model):
    """A provider's built-in tool has no other form."""
    bound = model.bind_tools([{"type": "web_search_preview"}, Weather])
    assert bound.kwargs["tools"][0] == {"type": "web_search_preview"}


def test_models_without_tools_are_left_out(kit, recorder, first, chat_openai):
    """A model that has no tools is not asked for a call with them; where none has, it is an error."""
    without = FakeListChatModel(responses=["no tools"])
    model = ChatLLMKit(models={"without": without, "with": chat_openai(first, "m-1")}, kit=kit)
    assert model.bind_tools([Weather]).invoke("hi").tool_calls
    assert [attempt.target.name for attempt in recorder.attempts] == ["with"]
    assert model.invoke("hi").text == "no tools"
    with pytest.raises(NotImplementedError, match="without"):
        ChatLLMKit(models={"without": without}, kit=kit).bind_tools([Weather])


@pytest.mark.parametrize("include_raw", [False, True])
@pytest.mark.parametrize("fails", [False, True])
async def test_structured_output_is_native(include_raw, fails, model, first, second):
    """Where all models are of one class, structured output is in the provider's own form, whoever answers."""
    if fails:
        first.fail_with(Fault("overloaded"))
    answer = await model.with_structured_output(Weather, include_raw=include_raw).ainvoke("hi")
    parsed = answer["parsed"] if include_raw else answer
    assert isinstance(parsed, Weather)
    assert (second if fails else first).requests[-1].body["response_format"]["type"] == "json_schema"
    if include_raw:
        assert answer["parsing_error"] is None
        assert answer["raw"].response_metadata["llmkit"]["target"] == ("second" if fails else "first")


class Elsewhere(ChatOpenAI):
    """OpenAI's models somewhere else."""


class Stubborn(ChatOpenAI):
    """Has a form of its own for structured output, though it comes from a class that has another."""

    def with_structured_output(self, schema, **kwargs):
        return super().with_structured_output(schema, method="function_calling")


@pytest.mark.parametrize(("cls", "form"), [(Elsewhere, "response_format"), (Stubborn, "tools")])
def test_structured_output_of_a_family(cls, form, kit, first, second, chat_openai):
    """Models of two classes that come from one have the provider's own form too, if it is the same."""
    first.fail_with(Fault("overloaded"))
    models = {"here": chat_openai(first, "m-1"), "there": chat_openai(second, "m-2", cls=cls)}
    assert isinstance(ChatLLMKit(models, kit).with_structured_output(Weather).invoke("hi"), Weather)
    assert all(form in provider.requests[0].body for provider in (first, second))


def test_structured_output_of_openai_and_azure(kit):
    """The same models at two places, which is what people fail over between."""
    azure = AzureChatOpenAI(model="m", api_key="k", azure_endpoint="http://x", api_version="2024-10-21", max_retries=0)
    models = {"openai": ChatOpenAI(model="m", api_key="k", max_retries=0), "azure": azure}
    chain: Any = ChatLLMKit(models, kit).with_structured_output(Weather)
    assert "response_format" in chain.first.kwargs


def test_structured_output_where_not_all_have_it(kit, first, chat_openai):
    """Where the models differ, those that can call a tool are asked to."""
    models = {"without": FakeListChatModel(responses=["x"]), "with": chat_openai(first, "m-1")}
    answer = ChatLLMKit(models=models, kit=kit).with_structured_output(Weather).invoke("hi")
    assert isinstance(answer, Weather)
    assert first.requests[0].body["tools"][0]["function"]["name"] == "Weather"


def test_structured_output_that_cannot_be_parsed(model, first):
    """With ``include_raw`` an answer of another form comes with the error instead of raising it."""
    first.change(reply=json.dumps({"nothing": "of it"}))
    answer = model.with_structured_output(Weather, method="json_mode", include_raw=True).invoke("hi")
    assert answer["parsed"] is None
    assert answer["parsing_error"] is not None
    assert "nothing" in answer["raw"].text


# -- what it says of itself -------------------------------------------------------------------------------------------


def test_profile_is_what_all_can_do(kit):
    """Numbers are the least, abilities those of all, and what differs in other ways is left out."""

    class Other(FakeListChatModel):
        pass

    big = {"max_input_tokens": 200, "tool_calling": True, "structured_output": True, "image_inputs": True}
    small = {"max_input_tokens": 100, "tool_calling": True, "structured_output": True, "image_inputs": False}

    def profile(*models):
        return ChatLLMKit(models={str(n): model for n, model in enumerate(models)}, kit=kit).profile

    one, same = (FakeListChatModel(responses=["x"], profile=told) for told in (big, small))
    assert profile(one, same) == {**small, "structured_output": True}
    assert profile(one, Other(responses=["x"], profile=small)) == {**small, "structured_output": False}
    assert profile(one, FakeListChatModel(responses=["x"])) is None


def test_it_tells_no_secrets(kit, first, chat_openai):
    """Neither its text nor what caches and tracers are told of it has the key; what tells models apart is in it."""
    model = ChatLLMKit(models={"a": chat_openai(first, "m-1", api_key="sk-secret", temperature=0.3)}, kit=kit)
    told = f"{model!r} {model} {model._identifying_params} {model.asdict()} {model._get_llm_string()}"
    assert "sk-secret" not in told
    assert "'temperature': 0.3" in model._get_llm_string()


def test_tracers_see_what_the_first_model_would_show(model):
    """Tracers are told the parameters as the first model tells them, without the secrets of a built-in tool."""
    tool = {"type": "mcp", "server_url": "x", "authorization": "sk-secret"}
    seen: list[Any] = []

    class Tracer(BaseCallbackHandler):
        def on_chat_model_start(self, serialized, messages, *, invocation_params, **_):
            seen.append(invocation_params)

    model.bind(seed=7).invoke("hi", {"callbacks": [Tracer()]})
    assert {"model": "m-1", "seed": 7, "_type": "llmkit"}.items() <= seen[0].items()
    assert "sk-secret" not in str(model._get_invocation_params(tools=[tool]))


@pytest.mark.parametrize("params", [{}, {"seed": 7}])
def test_tracers_may_change_what_they_are_told(params, model):
    """What is told of a call is that call's own: the next one is told the same."""
    for told in (model._get_invocation_params, model._get_ls_params):
        before = dict(told(**params))
        told(**params).clear()
        assert told(**params) == before != {}


def test_fallbacks_keep_their_tools(model, first, second, chat_openai):
    """Tools bound to a model with fallbacks are bound to the fallbacks too."""
    first.fail_with(Fault("bad_request"))
    bound = model.with_fallbacks([chat_openai(second, "m-2")]).bind_tools([Weather])
    assert bound.invoke("hi").tool_calls[0]["name"] == "Weather"


def test_tokens_are_counted_by_the_first_model(kit, first):
    """Without a tokenizer of its own, it counts as its first model does."""

    class Counting(FakeListChatModel):
        def get_token_ids(self, text):
            return list(range(len(text)))

        def get_num_tokens_from_messages(self, messages, tools=None):
            return 42

    model = ChatLLMKit(models={"a": Counting(responses=["x"]), "b": FakeListChatModel(responses=["x"])}, kit=kit)
    assert (model.get_num_tokens("abc"), model.get_num_tokens_from_messages([HumanMessage("x")])) == (3, 42)


@pytest.mark.parametrize("mode", ["invoke", "stream"])
async def test_content_is_in_the_form_of_the_models(mode, kit, first, chat_openai):
    """Models set to LangChain's standard content give it through the kit too, streamed or not."""
    models = {name: chat_openai(first, name, output_version="v1") for name in ("a", "b")}
    model = ChatLLMKit(models=models, kit=kit)
    answer = model.invoke("hi") if mode == "invoke" else sum_of(model.stream("hi"))
    assert [block["type"] for block in answer.content] == ["text"]


def sum_of(chunks):
    total = None
    for chunk in chunks:
        total = chunk if total is None else total + chunk
    return total


# -- copies, caches, limiters -----------------------------------------------------------------------------------------


def test_copies_share_the_kit_and_the_models(model, kit, recorder):
    """A deep copy, as graphs and configurable models make them, is as good as the original."""
    for made in (copy.deepcopy(model), copy.copy(model), model.model_copy(deep=True)):
        assert made is not model
        assert made.kit is kit
        assert made.models["first"] is model.models["first"]
        assert made.invoke("hi").text == "one two three"
    assert recorder.counts["request ok"] == 3
    bound = copy.deepcopy(model.bind_tools([Weather]))
    assert bound.invoke("hi").tool_calls


def test_deep_copy_is_its_own(model):
    """What is set on a deep copy is not set on the original."""
    model.metadata = {"list": []}
    made = copy.deepcopy(model)
    made.metadata["list"].append("x")
    assert model.metadata == {"list": []}


@pytest.fixture
def global_cache():
    cache = InMemoryCache()
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)


async def test_global_cache_is_above_the_kit(global_cache, model, recorder, first):
    """LangChain's cache answers before any plugin is asked, and keeps one entry."""
    for _ in range(2):
        assert model.invoke("hi").text == (await model.ainvoke("hi")).text == "one two three"
    assert len(global_cache._cache) == 1
    assert first.stats.requests == recorder.counts["request"] == 1


def test_cache_tells_models_apart(global_cache, kit, first, second, chat_openai):
    """Models that look alike but are at different addresses do not answer for each other; what is the same does."""
    routed = [ChatLLMKit({"a": chat_openai(each, "m")}, kit) for each in (first, second, first)]
    assert [model.invoke("hi").text for model in routed] == ["one two three", "four five", "one two three"]
    assert (first.stats.requests, second.stats.requests) == (1, 1)


def test_cache_of_a_model_is_below_the_kit(kit, recorder, first, chat_openai):
    """What a model's own cache answers is a call, but it was not sent and costs nothing."""
    model = ChatLLMKit(models={"a": chat_openai(first, "m-1", cache=InMemoryCache())}, kit=kit)
    assert model.invoke("hi").text == model.invoke("hi").text
    assert first.stats.requests == 1
    assert [(attempt.usage, attempt.duration is None) for attempt in recorder.attempts] == [
        (Usage(1, 3), False),
        (Usage(), True),
    ]


class Limiter(BaseRateLimiter):
    """Takes five seconds of a clock."""

    def __init__(self, clock):
        self.clock, self.asked = clock, 0

    def acquire(self, *, blocking=True):
        self.asked += 1
        self.clock.advance(5)
        return True

    async def aacquire(self, *, blocking=True):
        return self.acquire()


@pytest.mark.parametrize("mode", ["invoke", "stream", "ainvoke", "astream"])
async def test_limiter_of_a_model_is_not_the_provider(mode, recorder, ask, first, chat_openai):
    """A model's own limiter is asked once a call; the time it takes is not the provider's."""
    clock = ManualClock()
    limiter = Limiter(clock)
    model = ChatLLMKit(
        models={"a": chat_openai(first, "m-1", rate_limiter=limiter)}, kit=LLMKit([recorder], clock=clock)
    )
    assert await ask(mode, model) == ["one two three"]
    assert limiter.asked == 1
    assert recorder.attempts[0].duration == 0


@pytest.mark.parametrize("mode", ["invoke", "stream", "ainvoke", "astream"])
async def test_plugins_may_answer(mode, model, ask, kit, plugin, recorder, first):
    """What a plugin answers with is handed over, as often as it does, and is not changed by LangChain."""
    result = ChatResult(generations=[ChatGeneration(message=AIMessage("from the store"))])
    chunks = [ChatGenerationChunk(message=sum_of(GenericFakeChatModel(messages=iter(["from the store"])).stream("x")))]
    before = copy.deepcopy((result, chunks))
    kit.register(plugin(pre_request=lambda call: Answer(Response(result), chunks)))
    for _ in range(2):
        assert await ask(mode, model) == ["from the store"]
    assert (result, chunks) == before
    assert recorder.counts["request ok"] == 2
    assert first.stats.requests == 0


@pytest.mark.parametrize("mode", ["invoke", "stream"])
async def test_timeout_of_an_attempt_reaches_the_client(mode, model, ask, kit, plugin, first, second, recorder):
    """The time an attempt has is what a sync client waits; then the next provider is asked."""
    first.fail_with(Fault("timeout"))

    def hurry(call):
        call.timeout_seconds = 0.2

    kit.register(plugin(pre_request=hurry))
    assert await ask(mode, model) == ["four five"]
    assert [attempt.kind for attempt in recorder.attempts] == ["timeout", None]


@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream"])
@pytest.mark.parametrize(
    "timeouts",
    [(0.2, {}, 60), (None, {"timeout": 0.2}, 60), (60, {"timeout": 0.2}, 60), (60, {"timeout": -1}, 0.2)],
    ids=["the model's", "the call's", "the call's, not the model's", "the attempt's"],
)
async def test_shorter_timeout_counts(timeouts, mode, ask, kit, plugin, first, second, chat_openai, recorder):
    """A model that is set to wait less than an attempt may take waits less; so where the call says it. Less than none
    is no timeout."""
    own, passed, allowed = timeouts

    def patient(call):
        call.timeout_seconds = allowed

    first.slow_down(first_token_seconds=2)
    kit.register(plugin(pre_request=patient))
    models = {"first": chat_openai(first, "m", timeout=own), "second": chat_openai(second, "m")}
    assert await ask(mode, ChatLLMKit(models, kit).bind(**passed)) == ["four five"]
    assert [attempt.kind for attempt in recorder.attempts] == ["timeout", None]


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_model_that_always_streams(mode, kit, ask, first, chat_openai):
    """A model that is set to stream does so where a whole answer is asked for too."""
    model = ChatLLMKit(models={"a": chat_openai(first, "m", streaming=True)}, kit=kit)
    assert await ask(mode, model) == ["one two three"]
    assert first.requests[0].body["stream"]


class Tokens(BaseCallbackHandler):
    """Hears the tokens."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_llm_new_token(self, token, **_):
        self.heard.append(token)


@pytest.mark.parametrize("mode", ["invoke", "batch", "ainvoke", "abatch"])
async def test_callbacks_hear_the_tokens_of_models_that_always_stream(mode, kit, ask, first, second, chat_openai):
    """Models that are set to stream whole answers are set so for callbacks to hear each token: they do."""
    models = {"a": chat_openai(first, "m", streaming=True), "b": chat_openai(second, "m", streaming=True)}
    listening = Tokens()
    await ask(mode, ChatLLMKit(models, kit), {"callbacks": [listening], "max_concurrency": 1})
    assert "".join(listening.heard) == "one two three" * (2 if "batch" in mode else 1)


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
@pytest.mark.parametrize("streaming", [True, False])
async def test_whole_answer_that_nobody_hears_come_is_replaced(mode, streaming, kit, ask, first, second, chat_openai):
    """A provider that breaks off is replaced where nobody has heard a token of it yet."""
    models = {"a": chat_openai(first, "m", streaming=True), "b": chat_openai(second, "n", streaming=streaming)}
    model = ChatLLMKit(models, kit)
    first.fail_with(Fault("disconnect", after_chunks=2))
    assert await ask(mode, model) == ["four five"]


@pytest.mark.parametrize("mode", ["generate", "agenerate"])
async def test_what_models_tell_of_all_answers(mode, kit, first, second, chat_openai):
    """What the models tell of all answers together is told by this one too; nothing, where each has a way of its
    own."""
    models = {"a": chat_openai(first, "m"), "b": chat_openai(second, "n")}
    prompts = [[HumanMessage("hi")]]

    async def told(model: BaseChatModel) -> Any:
        result = await model.agenerate(prompts) if mode == "agenerate" else model.generate(prompts)
        return result.llm_output

    alone, routed = await told(models["a"]), await told(ChatLLMKit(models, kit))
    assert alone["token_usage"]["total_tokens"] == 4
    assert routed == alone
    assert await told(ChatLLMKit({**models, "c": FakeListChatModel(responses=["x"])}, kit)) == {}


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_content_in_the_form_of_one_of_the_models(mode, kit, first, second, chat_openai):
    """Where the models are set to different forms of content, each gives its own."""
    models = {"a": chat_openai(first, "m", output_version="v1"), "b": chat_openai(second, "n", output_version="v0")}
    model = ChatLLMKit(models=models, kit=kit)
    ask = model.ainvoke if mode == "ainvoke" else model.invoke
    answers = [
        (await answer) if mode == "ainvoke" else answer for answer in (ask("hi", model="a"), ask("hi", model="b"))
    ]
    assert [type(answer.content) for answer in answers] == [list, str]


@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_model_that_cannot_stream(mode, kit, ask, recorder):
    """A model without a stream of its own gives its answer in one chunk, tool calls included."""

    class Whole(BaseChatModel):
        @property
        def _llm_type(self):
            return "whole"

        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            call = {"name": "weather", "args": {"city": "x"}, "id": "1", "type": "tool_call"}
            message = AIMessage("said", tool_calls=[call], usage_metadata=USAGE)
            return ChatResult(generations=[ChatGeneration(message=message)])

    model = ChatLLMKit(models={"a": Whole()}, kit=kit)
    assert await ask(mode, model) == ["said"]
    answer = sum_of(model.stream("hi"))
    assert answer.tool_calls[0]["args"] == {"city": "x"}
    assert {attempt.usage.total_tokens for attempt in recorder.attempts} == {8}


USAGE = {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}


# -- settings ---------------------------------------------------------------------------------------------------------


def test_models_by_name(kit, monkeypatch):
    """A model may be given by name; it is made without retries of its own."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    model = ChatLLMKit(models={"fast": "openai:gpt-4o-mini"}, kit=kit)
    assert model.models["fast"].model_name == "gpt-4o-mini"
    assert model.models["fast"].max_retries == 0
    assert model._get_ls_params()["ls_provider"] == "openai"


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ({}, "models: there is no model"),
        (None, "models: None does not say"),
        ([FakeListChatModel(responses=["x"])], "models: list does not say"),
        (FakeListChatModel(responses=["x"]), "models: FakeListChatModel does not say"),
        ({1: FakeListChatModel(responses=["x"])}, "models: 1 is not a name"),
        ({"": FakeListChatModel(responses=["x"])}, "models: '' is not a name"),
        ({"fast": 1}, "models.fast: int is not a chat model"),
        ({"fast": FakeListChatModel}, "models.fast: the class FakeListChatModel is not a chat model"),
        ({"fast": "openai:gpt-4o"}, "(?s)models.fast: 'openai:gpt-4o' cannot be made: .*OPENAI_API_KEY"),
        ({"fast": "no-such-provider:x"}, "models.fast: 'no-such-provider:x' cannot be made"),
    ],
)
def test_what_is_no_model(models, says, kit, monkeypatch):
    """What cannot be a model is refused by name, and the error says what can."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=says) as caught:
        ChatLLMKit(models=models, kit=kit)
    assert any(right in str(caught.value) for right in ("chat model", "ChatOpenAI", "that of a target"))


def test_kit_within_itself(model, kit):
    """Its own kit would count each call twice, so that is refused; another one sees calls of its own."""
    with pytest.raises(ConfigError, match=r"models\.a: a ChatLLMKit of the same kit"):
        ChatLLMKit({"a": model}, kit)
    assert ChatLLMKit({"a": model}, LLMKit()).invoke("hi").text == "one two three"


def test_its_text_names_its_models(model):
    """Who looks at it sees what it is over."""
    assert repr(model).startswith("ChatLLMKit(models=['first', 'second']")


def test_unknown_settings(kit):
    """A setting that does not exist is refused, and the error names those that do."""
    with pytest.raises(ConfigError, match="temperature: there is no such setting") as caught:
        ChatLLMKit(models={"a": FakeListChatModel(responses=["x"])}, kit=kit, temperature=0)
    assert "cache" in str(caught.value)


@pytest.mark.parametrize("retries", [2, None])
def test_hidden_retries_are_named(retries, kit, first, chat_openai):
    """A model that retries by itself is named in a warning, also where that is its client's default."""
    models = {"a": chat_openai(first, "a", max_retries=retries), "b": chat_openai(first, "b")}
    with pytest.warns(UserWarning, match="^a: max_retries") as caught:
        ChatLLMKit(models=models, kit=kit)
    assert caught[0].filename == __file__


def test_callbacks_that_are_not_called_are_named(kit):
    """A model with callbacks of its own is named in a warning, unless they are the ``ChatLLMKit``'s too."""
    callbacks = [BaseCallbackHandler()]
    models = {"a": FakeListChatModel(responses=["x"], callbacks=callbacks), "b": FakeListChatModel(responses=["x"])}
    with pytest.warns(UserWarning, match="^a: the callbacks") as caught:
        ChatLLMKit(models, kit)
    assert caught[0].filename == __file__
    ChatLLMKit(models, kit, callbacks=callbacks)
