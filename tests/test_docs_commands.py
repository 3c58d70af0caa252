"""The pages of docs/ do what they say; docs/deployment.md: see `tests/test_deployment_docs.py`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from safetensors.torch import save_file

from engine.backbones.untrained import untrained_state
from tests.documented import ROOT, begins, code, commands
from tests.drawing import photo
from tests.proxy import free_port, missing
from tests.reader import Reader, reading
from tests.test_readme_commands import assert_like, left_open, synopsis
from tests.test_traces import collecting
from tests.web import body, web


def test_keys_are_made_used_and_revoked(tmp_path: Path, forker: str) -> None:
    with reading(tmp_path, forker) as reader:
        reader.types("cooc serve")
        make, ask, show, revoke = [
            command
            for command in commands(code("README.md", "Let others use it", "sh"))
            if not command.startswith("docker")
        ]
        reader.types(make)
        assert reader.asks(ask)["results"] == []
        assert "web shop" in reader.types(show)
        assert "of web shop is revoked" in reader.types(revoke)
        with pytest.raises(AssertionError, match="key_refused"):
            reader.types(ask)
        del reader.environment["KEY"]
        make, metrics = commands(code("docs/metrics.md", "Metrics", "sh"))
        reader.types(make)
        assert "\ncooc_ready 1.0\n" in reader.types(metrics)
        make, show, revoke, bearer, header, search = commands(
            code("docs/security.md", "Keys", "sh")
        )
        reader.types(make)
        assert "shop" in reader.types(show)
        reader.types(revoke)
        assert reader.asks(bearer) == reader.asks(header) == {"jobs": []}
        assert "the index is empty" in reader.types(search)
        for command in synopsis():
            if command.startswith("cooc keys"):
                reader.types(command, left_open(command))
        example = json.loads(code("docs/metrics.md", "Logs", "json"))
        assert_like(example, reader.logged("POST /search 200"))


@contextmanager
def nginx(reader: Reader) -> Iterator[str]:
    """The address of a proxy that is set up as it is shown."""
    port = free_port()
    location = reader.at_its_port(code("docs/security.md", "Behind a proxy", "nginx"))
    # Started by root, it works as a user who cannot look into the folders of tests.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        server = f"server {{ listen 127.0.0.1:{port}; {location} }}"
        set_up = (
            f"pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off; {server} }}"
        )
        (Path(folder) / "nginx.conf").write_text(set_up)
        words = ["nginx", "-p", folder, "-c", f"{folder}/nginx.conf", "-g", "daemon off;"]
        path = f"{os.environ['PATH']}:/usr/sbin"
        process = subprocess.Popen(words, env={"PATH": path}, stderr=subprocess.DEVNULL)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_the_proxy_that_is_shown_passes_on_what_the_service_asks_for(tmp_path: Path) -> None:
    with reading(tmp_path) as reader, nginx(reader) as proxy:
        reader.types("cooc serve")
        answer = httpx.get(f"{proxy}/jobs", timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_local")
        key = reader.types("cooc keys create", "owner --scope admin").strip()
        told = {"Authorization": f"Bearer {key}", "X-Forwarded-For": "192.0.2.7"}
        assert httpx.get(f"{proxy}/jobs", headers=told, timeout=60).status_code == 200
        assert reader.logged("GET /jobs 200")["client"] == "192.0.2.7"


def test_traces_are_sent_where_it_is_said(tmp_path: Path) -> None:
    with reading(tmp_path) as reader, collecting() as collector:
        install, serve = commands(code("docs/metrics.md", "Traces", "sh"))
        assert install.split()[1] == "install"
        reader.types(serve.replace("http://localhost:4318", collector.url))
        reader.asks("curl -F image=@query.jpg -F limit=5 localhost:8000/search")
        reader.stop()
    spans = [
        span.name
        for request in collector.got
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert "POST /search" in spans


def test_extras_can_be_installed(tmp_path: Path) -> None:
    """Nothing is downloaded: what is there for development has all of them."""
    known = importlib.metadata.metadata("cooc-image-search").get_all("Provides-Extra") or ()
    if not {"dev", "otel", "train"} <= {*known}:
        pytest.skip(f"the package that is installed here is older: it has the extras {known}")
    with reading(tmp_path) as reader:
        said = reader.types(".venv/bin/pip install 'cooc-image-search[otel]'", "2>&1")
        said += reader.types(".venv/bin/pip install 'cooc-image-search[train]'", "2>&1")
    assert said.count("already satisfied: cooc-image-search[") == 2
    assert "does not provide" not in said


def test_images_are_fetched_from_where_it_is_allowed(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    trust = {"SSL_CERT_FILE": str(tmp_path / "authority.pem")}
    private = {"COOC_URL_ALLOW_PRIVATE": "127.0.0.0/8"}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with web(context=context) as images, reading(tmp_path, **trust, **private) as reader:
        images.answers["/beach.jpg"] = body(photo(0, (320, 240)))
        serve, search, add = (
            command.replace("images.example.com", f"127.0.0.1:{images.port}")
            for command in commands(code("docs/url-fetching.md", "Images by URL", "sh"))
        )
        reader.types(serve)
        assert reader.asks(search)["results"] == []
        job = reader.finish(reader.asks(add)["id"])
        assert (job["state"], job["progress"]["added"]) == ("succeeded", 1)
        (found,) = reader.asks(search)["results"]
        assert (found["id"], found["match_type"]) == ("beach", "exact")
        assert found["metadata"] == {"album": "2024"}


def test_what_is_learned_is_served(tmp_path: Path, forker: str) -> None:
    with reading(tmp_path, forker) as reader:
        save_file(untrained_state("squeezenet1_1"), tmp_path / "squeezenet1_1.safetensors")
        assert "28 images" in reader.types("cooc make-dataset FOLDER --layout folders")
        (tmp_path / "train").symlink_to("FOLDER")
        (train,) = commands(code("docs/training.md", "The filter", "sh"))
        reader.types(train)
        (distill,) = commands(
            code("docs/bundled-weights.md", "The weights that ship with the package", "sh")
        )
        reader.types(distill)
        for command in synopsis():
            typed = begins(command, train) or begins(command, distill)
            if command.startswith("cooc train ") and not typed:
                reader.types(command, left_open(command))
        into_new_index(reader, "runs/whitening/projection.safetensors")
        assert "60 images: 60 added" in reader.types("cooc index add PHOTOS/", "--projection FILE")
        into_new_index(reader, "runs/metric/projection.safetensors")
        reader.types("cooc serve --projection FILE")
        assert recipe(reader)["projection_digest"]
        into_new_index(reader, "runs/vgg_lite/weights.safetensors")
        reader.types("cooc serve --backbone vgg_lite --weights FILE")
        assert recipe(reader)["weights"].endswith("weights.safetensors")
        into_new_index(reader, "runs/filter/filter.safetensors")
        reader.environment["COOC_WEIGHTS"] = "squeezenet1_1.safetensors"
        reader.types("cooc serve --cooccurrence FILE")
        assert recipe(reader)["cooccurrence_digest"]


def into_new_index(reader: Reader, file: str) -> None:
    """FILE is what the next service works with, from its first photo on."""
    reader.known["FILE"] = file
    reader.environment["COOC_DATA_DIR"] = str(reader.folder / f"{Path(file).parent.name}-index")


def recipe(reader: Reader) -> dict[str, Any]:
    """That of a service, which finds a photo with it."""
    reader.types("curl -X PUT -F image=@beach.jpg localhost:8000/images/beach.jpg")
    (found,) = reader.asks("curl -F image=@query.jpg localhost:8000/search")["results"]
    assert found["score"] > 0.5
    used: dict[str, Any] = reader.get("/admin/index").json()["recipe"]
    return used


def test_methods_are_compared_as_the_pages_say(tmp_path: Path, forker: str) -> None:
    with reading(tmp_path, forker) as reader:
        shutil.copytree(tmp_path / "PHOTOS", tmp_path / "grocery")
        reader.known["DATASET"] = "grocery"
        (command,) = commands(code("docs/bundled-weights.md", "Results", "sh"))
        table = reader.types(command)
        assert "grocery: 60 images, vgg_lite" in table
        page = (ROOT / "docs" / "bundled-weights.md").read_text().split("## Results")[1]
        compared = re.findall(r"^\| `(\w+)` \| [*\d]+\.[*\d]+ /", page, re.MULTILINE)
        rows = re.findall(r"^│ (\w+) +│ (none|fitted)", table, re.MULTILINE)
        assert {(name, kind) for name in compared for kind in ("none", "fitted")} == {*rows}
        reader.types("cooc evaluate DATASET --correlation out.png")
        assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
        found = reader.asks("python -m benchmarks.example_queries DATASET", "--cache-dir cache")
        weights = {row["weight"] for row in found["results"]}
        assert {0.0, 0.15, 0.25, 0.5} <= weights


MEASURED = ("cooccurrence", "bilinear", "extract", "trunks")
"""Others are run where their parts are: `test_bench_http.py`, `test_bench_search.py`."""


@pytest.mark.slow
def test_the_machine_is_measured(tmp_path: Path, forker: str) -> None:
    with reading(tmp_path, forker) as reader:
        for name in MEASURED:
            reader.known["NAME"] = name
            found = reader.asks("cooc bench NAME --json")
            assert found["bench"] == name
            times = found["rows"] if "rows" in found else [found]
            for row in times:
                assert all(value > 0 for field, value in row.items() if field.endswith("_ms"))


def test_the_synopsis_names_every_measurement() -> None:
    named = [command.split()[2] for command in synopsis() if command.startswith("cooc bench")]
    assert {*named} == {*MEASURED, "search", "growing", "http"}
