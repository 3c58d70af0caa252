"""Traces: in memory, and as they arrive at a collector."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from app.main import create_app
from app.observing.otel import REMEMBERED, Traces
from app.observing.traces import traces_from_environment
from app.security.scopes import Scope
from app.settings import Settings
from engine.passes.stages import Stages
from tests.drawing import photo
from tests.keyed import key_id, new_key
from tests.server import serving
from tests.test_api import SMALL, add, finished

ROOT = Path(__file__).resolve().parents[1]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Traced:
    """A service whose spans stay in memory."""

    def __init__(self, client: TestClient, exporter: InMemorySpanExporter, key: str) -> None:
        self.client, self._exporter, self.key = client, exporter, key

    def spans(self) -> dict[str, ReadableSpan]:
        """Those that ended since the last call, by their names."""
        found = self._exporter.get_finished_spans()
        self._exporter.clear()
        return {span.name: span for span in found}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traces") / "index"
    key = new_key(folder, Scope.ADMIN)
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = create_app(Settings(data_dir=folder, **SMALL), Traces(provider))
    with TestClient(app, headers={"Authorization": f"Bearer {key}"}) as client:
        yield Traced(client, exporter, key)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def context(span: ReadableSpan) -> Any:
    assert span.context is not None
    return span.context


def test_a_search_is_a_span_with_its_stages_as_children(traced: Traced) -> None:
    traced.spans()
    answer = traced.client.post("/search", files={"image": photo(1)})
    spans = traced.spans()
    request = spans.pop("POST /search")
    assert request.kind is SpanKind.SERVER
    assert request.parent is None
    said = attributes(request)
    assert said["http.response.status_code"] == 200
    assert said["http.route"] == "/search"
    assert said["cooc.request_id"] == answer.headers["X-Request-ID"]
    assert said["cooc.key_id"] == key_id(traced.key)
    assert spans.keys() == {"upload", "decode", "queue", "describe", "search"}
    assert request.start_time is not None
    for span in spans.values():
        assert span.parent is not None
        assert span.parent.span_id == context(request).span_id
        assert context(span).trace_id == context(request).trace_id
    order = sorted(spans.values(), key=lambda span: span.start_time or 0)
    assert [span.name for span in order] == ["upload", "decode", "queue", "describe", "search"]
    took = {name: (span.end_time or 0) - (span.start_time or 0) for name, span in spans.items()}
    told = answer.json()["timing_ms"]
    assert took["describe"] / 1e6 == pytest.approx(told["describe"], abs=1)


def test_the_trace_of_the_caller_goes_on(traced: Traced) -> None:
    traced.spans()
    traced.client.get("/jobs", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    request = traced.spans()["GET /jobs"]
    assert f"{context(request).trace_id:032x}" == TRACE
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT


def test_a_trace_that_the_caller_does_not_sample_is_not_told(traced: Traced) -> None:
    traced.spans()
    traced.client.get("/jobs", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert traced.spans() == {}


def test_jobs_are_traces_of_their_own(traced: Traced) -> None:
    traced.spans()
    job = add(traced.client, ("a.jpg", photo(2)), ("b.txt", b"no image"))
    built = finished(traced.client, traced.client.post("/admin/index/build"))
    spans = traced.spans()
    assert attributes(spans["job add"]) == {"cooc.job_id": job["id"], "cooc.job_state": "partial"}
    assert attributes(spans["job build"])["cooc.job_id"] == built["id"]
    build = spans["build"]
    assert build.parent is not None
    assert build.parent.span_id == context(spans["job build"]).span_id
    assert spans["job add"].parent is None
    asked = {"job add": "POST /index/add", "job build": "POST /admin/index/build"}
    for name, request in asked.items():
        (link,) = spans[name].links
        assert link.context.span_id == context(spans[request]).span_id
        assert link.context.trace_id == context(spans[request]).trace_id


def test_jobs_that_nobody_asks_for_are_linked_to_nothing() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces = Traces(provider)
    for number in range(REMEMBERED + 5):
        with provider.get_tracer("test").start_as_current_span("request"):
            traces.asked(f"{number}")
    traces.asked("alone")
    for job_id in ("alone", "4", "5", "5"):
        traces.job(job_id, "build", "succeeded", Stages(), 0.0)
    spans = [span for span in exporter.get_finished_spans() if span.name == "job build"]
    # That of the fifth request is forgotten, as there were too many since.
    assert [len(span.links) for span in spans] == [0, 0, 1, 0]


def test_what_is_polled_is_not_traced(traced: Traced) -> None:
    traced.spans()
    for path in ("/livez", "/readyz", "/version", "/metrics"):
        assert traced.client.get(path).status_code == 200
    assert traced.spans() == {}


def test_no_span_has_a_secret(traced: Traced) -> None:
    traced.spans()
    traced.client.get("/jobs", params={"api_key": traced.key, "limit": 3})
    traced.client.post("/session", json={"key": traced.key})
    spans = traced.spans()
    assert attributes(spans["GET /jobs"])["url.query"] == "REDACTED"
    assert len(spans) >= 2
    for span in spans.values():
        assert traced.key.split("_")[2] not in span.to_json()


class Collector(HTTPServer):
    """What a collector gets as OTLP over HTTP."""

    def __init__(self) -> None:
        self.got: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            import gzip

            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        self.server.got.append(ExportTraceServiceRequest.FromString(body))
        self.server.headers.append(dict(self.headers))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


def test_a_service_sends_its_traces_where_the_standard_variables_say(tmp_path: Path) -> None:
    with collecting() as collector:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-team=photos",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
        }
        with serving(tmp_path / "index", **variables) as server:
            server.http.post("/search", files={"image": photo(1)})
            assert server.stop() == -signal.SIGTERM
    resources = [entry for request in collector.got for entry in request.resource_spans]
    about = {pair.key: pair.value.string_value for pair in resources[0].resource.attributes}
    assert about["service.name"] == "cooc"
    assert about["deployment.environment"] == "test"
    names = {span.name for entry in resources for part in entry.scope_spans for span in part.spans}
    assert {"POST /search", "describe", "queue"} <= names
    assert collector.headers[0]["x-team"] == "photos"


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, None),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "not otlp and grpc",
        ),
    ],
)
def test_without_an_endpoint_that_is_understood_nothing_is_traced(
    variables: dict[str, str],
    says: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert traces_from_environment() is None
    assert [says in record.getMessage() for record in caplog.records if says] == (
        [True] if says else []
    )


LOADED = """
import sys

{before}
from app.observing.traces import traces_from_environment

print(traces_from_environment(), [name for name in sys.modules if name.startswith(
    ("opentelemetry.sdk", "opentelemetry.exporter"))])
"""


def loaded(before: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a process of its own has loaded after a line of Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", LOADED.format(before=before)],
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_the_extra_is_loaded_by_nobody_who_does_not_ask_for_traces() -> None:
    assert loaded("import app.main, app.cli, app.observing.logs").stdout == "None []\n"


def test_who_asks_for_traces_without_the_extra_is_told_how_to_get_it() -> None:
    done = loaded(
        "sys.modules['opentelemetry.sdk'] = None", OTEL_EXPORTER_OTLP_ENDPOINT="http://collector"
    )
    assert done.stdout == "None ['opentelemetry.sdk']\n"
    assert "pip install 'cooc-image-search[otel]'" in done.stderr
