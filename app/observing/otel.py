"""Traces by OpenTelemetry. Imported only where somebody asked for them: it is an extra."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import MutableMapping
from threading import Lock
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, format_trace_id

from app import __version__
from app.observing.requests import POLLED
from engine.passes.stages import Stages

QUERY = "url.query"
REMEMBERED = 1000
"""Jobs whose request is known, until they end."""


class _WithoutQueries(SpanProcessor):
    """People put secrets into the query of an address, by mistake."""

    def on_start(self, span: Span, parent_context: otel_context.Context | None = None) -> None:
        if QUERY in (span.attributes or {}):
            span.set_attribute(QUERY, "REDACTED")

    def on_end(self, span: ReadableSpan) -> None:
        pass


class Traces:
    """Spans of requests, of jobs, and of their stages, for one provider."""

    def __init__(self, provider: TracerProvider) -> None:
        provider.add_span_processor(_WithoutQueries())
        self._provider = provider
        self._tracer = provider.get_tracer("cooc", __version__)
        self._asked: OrderedDict[str, SpanContext] = OrderedDict()
        self._lock = Lock()

    def telemetry(self) -> TelemetryConfig:
        """For `FastAPI(telemetry=...)`: it makes the spans of requests and reads `traceparent`."""
        return {
            "tracer_provider": self._provider,
            "tracing": True,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": _is_polled,
        }

    def annotate(self, name: str, value: str) -> str | None:
        """Set an attribute of the request's span; the id of its trace, None if it has none."""
        span = trace.get_current_span()
        span.set_attribute(name, value)
        context = span.get_span_context()
        return format_trace_id(context.trace_id) if context.is_valid else None

    def request(self, stages: Stages) -> None:
        """Stages become children of the span of the request."""
        if trace.get_current_span().get_span_context().is_valid:
            self._add_stages(stages, otel_context.get_current())

    def asked(self, job_id: str) -> None:
        """The span of the request that asks for a job, which is linked to it."""
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return
        with self._lock:
            self._asked[job_id] = context
            while len(self._asked) > REMEMBERED:
                self._asked.popitem(last=False)

    def job(self, job_id: str, type: str, state: str | None, stages: Stages, began: float) -> None:
        """A trace of its own, with the stages of the job; linked to the request that asked for it,
        as long as this process has both."""
        with self._lock:
            asked = self._asked.get(job_id) if state is None else self._asked.pop(job_id, None)
        span = self._tracer.start_span(
            f"job {type}",
            context=otel_context.Context(),
            start_time=_wall_ns(began),
            attributes={"cooc.job_id": job_id, "cooc.job_state": state or "interrupted"},
            links=[] if asked is None else [Link(asked)],
        )
        if state == "failed":
            span.set_status(Status(StatusCode.ERROR))
        self._add_stages(stages, trace.set_span_in_context(span, otel_context.Context()))
        span.end()

    def _add_stages(self, stages: Stages, parent: otel_context.Context) -> None:
        for interval in stages.intervals:
            span = self._tracer.start_span(
                interval.name, context=parent, start_time=_wall_ns(interval.began)
            )
            span.end(_wall_ns(interval.ended))

    def close(self) -> None:
        """Send what there is."""
        self._provider.shutdown()


def provider_from_environment() -> TracerProvider:
    """Spans go where the standard OTEL_* variables say, as OTLP over HTTP."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = Resource({"service.name": "cooc", "service.version": __version__})
    resource = Resource.create().merge(ours).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _wall_ns(moment: float) -> int:
    """Nanoseconds since the epoch of a time of `time.perf_counter`."""
    return time.time_ns() - int(1e9 * (time.perf_counter() - moment))


def _is_polled(scope: MutableMapping[str, Any]) -> bool:
    return scope["path"].removeprefix(scope.get("root_path", "")) in POLLED
