"""Runs inside the proxy: plugins that write down what they hear, and one that is broken."""

from __future__ import annotations

import json
import os
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from llmkit_plugins import hookimpl

FILES = Path(os.environ["JOURNAL"])


def write(file, **line):
    with (FILES / file).open("a") as out:
        out.write(json.dumps(line) + "\n")


class Journal:
    """Hears everything and writes a line for each beginning and end."""

    def note(self, what, call, **more):
        write("journal", who=self.name, what=what, call=call.id, model=call.model, **more)

    @hookimpl
    def llmkit_pre_request(self, call):
        self.note("request", call, user=call.user, tenant=call.tenant, operation=call.operation)

    @hookimpl
    def llmkit_pre_attempt(self, call, attempt):
        self.note("attempt", call, number=attempt.number, target=attempt.target.name)

    @hookimpl
    def llmkit_post_attempt(self, call, attempt):
        self.note(f"attempt {attempt.outcome}", call, number=attempt.number, target=attempt.target.name)

    @hookimpl
    def llmkit_post_response(self, call, response):
        self.note("request ok" if response.shared is None else "request shared", call, cost=response.cost)

    @hookimpl
    def llmkit_error(self, call, error):
        self.note(f"request {call.outcome}", call, error=type(error).__name__)

    def close(self):
        write("journal", who=self.name, what="closed", call=None, model=None)


class Outer(Journal):
    """Listed first."""

    name = "outer"


class Spans:
    """Gives the process a tracer provider that writes spans to a file."""

    name = "spans"

    def attach(self, kit):
        out = (FILES / "spans").open("a")
        exporter = ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + "\n")
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)

    @hookimpl
    def llmkit_error(self, call):
        pass


class Inner(Journal):
    """Listed last; it has the last word on the order of the targets, which is that of their names."""

    name = "inner"

    @hookimpl
    def llmkit_route(self, call, targets):
        return sorted(targets, key=lambda target: target.name)


class Buggy:
    """Fails wherever it is asked about a model of that name."""

    name = "buggy"

    def fail(self, call):
        if call.model == "buggy":
            raise RuntimeError("a bug")

    @hookimpl
    def llmkit_pre_request(self, call):
        self.fail(call)

    @hookimpl
    def llmkit_pre_attempt(self, call, attempt):
        self.fail(call)

    @hookimpl
    def llmkit_post_attempt(self, call, attempt):
        self.fail(call)

    @hookimpl
    def llmkit_post_response(self, call, response):
        self.fail(call)
