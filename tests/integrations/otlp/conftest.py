"""A real OTLP receiver, over gRPC and over HTTP, and what it was sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Received:
    """One span, as it was sent."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    failed: bool
    links: tuple[str, ...]


@dataclass
class Inbox:
    """What a receiver got, in the order it came; it may be told to be slow or to refuse."""

    spans: list[Received] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    requests: int = 0
    refuses: bool = False
    held: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.held.set()

    def trace(self, request: trace_service_pb2.ExportTraceServiceRequest) -> bool:
        """Take what *request* brings; False where it is refused."""
        self.requests += 1
        self.held.wait()
        if self.refuses:
            return False
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(map(_received, scope.spans))
        return True

    def measure(self, request: metrics_service_pb2.ExportMetricsServiceRequest) -> bool:
        """The same for metrics."""
        self.held.wait()
        if self.refuses:
            return False
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                self.metrics.update({metric.name: metric for metric in scope.metrics})
        return True

    def of(self, trace_id: str) -> list[Received]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace_id == trace_id]


def _received(span: Any) -> Received:
    attributes = {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}
    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
    return Received(
        span.name, *ids, attributes, span.status.code == 2, tuple(link.span_id.hex() for link in span.links)
    )


class _TraceService(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox

    def Export(self, request, context):
        if not self.inbox.trace(request):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")
        return trace_service_pb2.ExportTraceServiceResponse()


class _MetricsService(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox

    def Export(self, request, context):
        if not self.inbox.measure(request):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")
        return metrics_service_pb2.ExportMetricsServiceResponse()


def _over_grpc(inbox: Inbox) -> tuple[str, Callable[[], None]]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_TraceService(inbox), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_MetricsService(inbox), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return f"http://127.0.0.1:{port}", lambda: server.stop(0).wait()


def _over_http(inbox: Inbox) -> tuple[str, Callable[[], None]]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                taken = inbox.trace(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            else:
                taken = inbox.measure(metrics_service_pb2.ExportMetricsServiceRequest.FromString(body))
            self.send_response(200 if taken else 400)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return f"http://127.0.0.1:{server.server_port}", stop


@pytest.fixture(params=["grpc", "http"])
def protocol(request) -> str:
    """How the receiver is spoken to."""
    return request.param


@pytest.fixture
def inbox() -> Inbox:
    """What the receiver got."""
    return Inbox()


@pytest.fixture
def endpoint(protocol, inbox) -> Iterator[str]:
    """The receiver's address."""
    url, stop = (_over_grpc if protocol == "grpc" else _over_http)(inbox)
    yield url
    inbox.held.set()
    stop()
