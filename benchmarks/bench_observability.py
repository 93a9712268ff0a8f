"""What recording a call costs, beside the primitives of prometheus-client and of the OpenTelemetry SDK, LiteLLM's two
loggers and LangChain's two instrumentations, in one run. Times are CPU time of this thread, not of exporters."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

from interleaved import Contender, measure, rounds_from_command_line, show
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry, Histogram

from llmkit_plugins import Attempt, Call, LLMKit, Response, Target, Usage
from llmkit_plugins.plugins.observability import ObservabilityPlugin
from llmkit_plugins.testing import FakeProvider

CLOCK = time.thread_time
CALLS = 2_000
TARGET = Target("a", "openai", "gpt-4o-mini", 0.15, 0.60)
USAGE = Usage(100, 50)
BUDGETS = {
    "metrics": 2.0,
    "metrics, streamed": 2.0,
    "spans, unsampled": 5.0,
    "spans, unsampled by the SDK": 5.0,
    "one sampled span": 30.0,
}


class Nowhere(SpanExporter):
    """Takes everything and keeps nothing."""

    def export(self, spans):
        return SpanExportResult.SUCCESS

    def shutdown(self):
        pass


def tracers(**settings: Any) -> TracerProvider:
    provider = TracerProvider(**settings)
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    return provider


def plugin(**settings: Any) -> ObservabilityPlugin:
    made = ObservabilityPlugin(CollectorRegistry(), **settings)
    LLMKit([made], [TARGET])
    return made


class NoPlugin:
    """Has the same hooks and does nothing: what the calls of the functions themselves cost."""

    def llmkit_pre_request(self, call: Call) -> None:
        pass

    def llmkit_post_attempt(self, call: Call, attempt: Attempt) -> None:
        pass

    def llmkit_post_response(self, call: Call, response: Response) -> None:
        pass


def recording(observer: Any, *, stream: bool = False) -> Contender:
    """Seconds for the hooks of one good call, without the making of its objects and what a reader of metrics pays."""

    def one() -> float:
        call, attempt = Call("hi", stream=stream), Attempt(1, TARGET)
        call.attempts.append(attempt)
        response = Response(None, attempt)
        begun = CLOCK()
        observer.llmkit_pre_request(call)
        taken = CLOCK() - begun
        attempt.started, attempt.finished, attempt.outcome = 1.0, 2.0, "ok"
        attempt.usage, attempt.finish_reason = USAGE, "stop"
        attempt.first_chunk = 1.2 if stream else None
        begun = CLOCK()
        observer.llmkit_post_attempt(call, attempt)
        call.outcome, call.response = "ok", response
        observer.llmkit_post_response(call, response)
        return taken + CLOCK() - begun

    def run() -> float:
        seconds = sum(one() for _ in range(CALLS)) / CALLS
        read(observer)
        return seconds

    return run


def read(observer: Any) -> None:
    """What a reader does first."""
    if getattr(observer, "recorder", None) is not None and observer.recorder.metrics is not None:
        observer.recorder.metrics.settle()
        observer.recorder.metrics.later.settle()


def reading(observer: ObservabilityPlugin) -> Contender:
    """Seconds that whoever scrapes pays for one call."""
    record, metrics = recording(observer), observer.recorder.metrics

    def run() -> float:
        with patch.object(metrics, "settle"), patch.object(metrics.later, "settle"):
            record()
        begun = CLOCK()
        read(observer)
        return (CLOCK() - begun) / CALLS

    return run


def repeated(work: Callable[[], Any], times: int = CALLS) -> Contender:
    def run() -> float:
        begun = CLOCK()
        for _ in range(times):
            work()
        return (CLOCK() - begun) / times

    return run


def sdk_span(provider: TracerProvider) -> Contender:
    tracer, attributes = provider.get_tracer("bench"), {f"gen_ai.attribute.{n}": "value" for n in range(8)}
    return repeated(lambda: tracer.start_span("chat", attributes=attributes).end())


def prometheus_observe() -> Contender:
    child = Histogram("bench_seconds", "", ("label",), registry=CollectorRegistry()).labels("value")
    return repeated(lambda: child.observe(0.3))


def ours(rounds: int) -> dict[str, float]:
    otel: Any = {"metrics": ["prometheus", "opentelemetry"], "meter_provider": MeterProvider([InMemoryMetricReader()])}
    nothing = "the hooks of a plugin that does nothing"
    recorded = {
        nothing: recording(NoPlugin()),
        "all off": recording(plugin(metrics=[], traces=False)),
        "metrics": recording(plugin(traces=False)),
        "metrics, streamed": recording(plugin(traces=False), stream=True),
        "metrics, for OpenTelemetry as well": recording(plugin(traces=False, **otel)),
        "spans, unsampled": recording(plugin(metrics=[], tracer_provider=tracers(), trace_ratio=0.0)),
        "spans, unsampled by the SDK": recording(plugin(metrics=[], tracer_provider=tracers(sampler=ALWAYS_OFF))),
        "spans, sampled (two)": recording(plugin(metrics=[], tracer_provider=tracers())),
        "metrics and sampled spans": recording(plugin(tracer_provider=tracers())),
    }
    others = {
        "metrics: the reader's part": reading(plugin(traces=False)),
        "metrics for OpenTelemetry: the reader's part": reading(plugin(traces=False, **otel)),
        "prometheus-client: one bound observe": prometheus_observe(),
        "OpenTelemetry SDK: one span, 8 attributes": sdk_span(tracers()),
        "OpenTelemetry SDK: the same, unsampled": sdk_span(tracers(sampler=ALWAYS_OFF)),
    }
    medians = measure({**recorded, **others}, rounds)
    own = {name: medians[name] - (medians[nothing] if name in recorded else 0.0) for name in medians if name != nothing}
    own["one sampled span"] = own["spans, sampled (two)"] / 2
    show(
        "recording one call, beyond what any plugin's hooks cost", own, "prometheus-client: one bound observe", BUDGETS
    )
    return own


def share_of_real_calls(own: Mapping[str, float]) -> None:
    """What that is of a call over HTTP, by the openai client."""
    import openai

    print("\nas a share of a real call")
    for milliseconds in (0, 50):
        with FakeProvider(reply="one two three", first_token_seconds=milliseconds / 1000) as provider:
            client = openai.OpenAI(base_url=provider.url, api_key="any", max_retries=0)
            messages: Any = [{"role": "user", "content": "hi"}]
            client.chat.completions.create(model="m", messages=messages)
            begun, calls = time.perf_counter(), 40
            for _ in range(calls):
                client.chat.completions.create(model="m", messages=messages)
            call = (time.perf_counter() - begun) / calls
            client.close()
        for name in ("all off", "metrics", "metrics and sampled spans"):
            share = own[name] / call
            verdict = f"   budget 1 %: {'met' if share < 0.01 else 'MISSED'}" if milliseconds else ""
            print(f"  {f'{name}, provider at {milliseconds} ms':44} {share:10.3%} of {call * 1e3:.1f} ms{verdict}")


# -- peers ----------------------------------------------------------------------------------------------------------


def litellm_event() -> tuple[Any, ...]:
    """What LiteLLM tells a logger of one good call."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm
    from litellm.integrations.custom_logger import CustomLogger

    told: list[tuple[Any, ...]] = []

    class Capture(CustomLogger):
        async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
            told.append((kwargs, response_obj, start_time, end_time))

    async def ask() -> None:
        litellm.callbacks = [Capture()]
        await litellm.acompletion("gpt-4o-mini", [{"role": "user", "content": "hi"}], mock_response="one two three")
        for _ in range(200):
            if told:
                return
            await asyncio.sleep(0.01)

    asyncio.run(ask())
    litellm.callbacks = []
    return told[0]


def litellm_prometheus(event: tuple[Any, ...], loop: asyncio.AbstractEventLoop) -> Contender:
    from litellm.integrations.prometheus import PrometheusLogger

    logger = PrometheusLogger()

    async def go() -> float:
        begun = CLOCK()
        for _ in range(50):
            await logger.async_log_success_event(*event)
        return (CLOCK() - begun) / 50

    return lambda: loop.run_until_complete(go())


def litellm_otel(event: tuple[Any, ...]) -> Contender:
    from litellm.integrations.opentelemetry import OpenTelemetry, OpenTelemetryConfig

    class EachTime(OpenTelemetry):
        """Takes no event for one it has told already: the same one is replayed."""

        def _emit_once(self, kwargs, event_type):
            return True

    logger = EachTime(config=OpenTelemetryConfig(exporter="console"), tracer_provider=tracers())
    return repeated(lambda: logger._handle_success(*event), 50)


def litellm_peers(rounds: int, own: Mapping[str, float]) -> None:
    event = litellm_event()
    loop = asyncio.new_event_loop()
    contenders: dict[str, Contender] = {}
    for name, make in {
        "LiteLLM PrometheusLogger": lambda: litellm_prometheus(event, loop),
        "LiteLLM OpenTelemetry": lambda: litellm_otel(event),
    }.items():
        try:
            contender = make()
            contender()
        except Exception as error:
            print(f"  {name}: cannot be measured here ({type(error).__name__}: {error})")
        else:
            contenders[name] = contender
    medians = measure(contenders, min(rounds, 5))
    show(
        "LiteLLM's own loggers, one success event",
        {
            "ours: metrics": own["metrics"],
            "ours: metrics and sampled spans": own["metrics and sampled spans"],
            **medians,
        },
        "ours: metrics",
    )
    loop.close()


def langchain_peers(rounds: int) -> None:
    from langchain_core.language_models import FakeListChatModel
    from llmkit_langchain import LLMKitCallbackHandler

    class Named(FakeListChatModel):
        """Has a model's name, without which OpenTelemetry's instrumentation leaves it alone."""

        def _get_ls_params(self, *args: Any, **kwargs: Any) -> Any:
            return {**super()._get_ls_params(*args, **kwargs), "ls_model_name": "fake", "ls_provider": "fake"}

    model = Named(responses=["one two three"])
    provider = tracers()
    kit = LLMKit([ObservabilityPlugin(CollectorRegistry(), tracer_provider=provider)])
    handler = {"callbacks": [LLMKitCallbackHandler(kit)]}
    invoke = repeated(lambda: model.invoke("hi"), 100)
    contenders: dict[str, Contender] = {
        "the model alone": invoke,
        "LLMKitCallbackHandler: metrics and spans": repeated(lambda: model.invoke("hi", handler), 100),
    }
    for name, find in {
        "OpenInference: spans": openinference,
        "OpenTelemetry GenAI: metrics and spans": official,
    }.items():
        try:
            contenders[name] = instrumented(find(), provider, invoke)
        except ImportError as missing:
            print(f"  {name}: not installed ({missing.name})")
    show(
        "LangChain: invoke of a model that answers at once",
        measure(contenders, min(rounds, 5)),
        "the model alone",
    )


def openinference() -> Any:
    from openinference.instrumentation.langchain import LangChainInstrumentor

    return LangChainInstrumentor()


def official() -> Any:
    from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor

    return LangChainInstrumentor()


def instrumented(instrumentor: Any, provider: TracerProvider, invoke: Contender) -> Contender:
    def run() -> float:
        instrumentor.instrument(tracer_provider=provider, meter_provider=MeterProvider([InMemoryMetricReader()]))
        try:
            return invoke()
        finally:
            instrumentor.uninstrument()

    return run


def main() -> None:
    rounds = rounds_from_command_line()
    own = ours(rounds)
    share_of_real_calls(own)
    for peers in (lambda: litellm_peers(rounds, own), lambda: langchain_peers(rounds)):
        try:
            peers()
        except ImportError as missing:
            print(f"\n{missing.name} is not installed: its instrumentations are left out")


if __name__ == "__main__":
    main()
