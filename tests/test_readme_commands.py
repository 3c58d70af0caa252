"""README.md does what it says: its commands are typed, in their order, into a shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import torch

from app.settings import load_settings
from tests.documented import ROOT, code, commands, expanded, pages, settings, spans
from tests.reader import INHERITED, Reader, reading

BESIDE = ("index", "search", "compare")
"""Commands of the synopsis that are typed while a service runs, so that it does their work."""
ELSEWHERE = ("serve", "keys", "bench", "train")
"""Those that `test_docs_commands.py` types."""
LEFT_OPEN = {
    "cooc search query.jpg": "--max-fpr 0.5",  # 0.001 takes 430 images
    "cooc snapshot restore": "NAME",
    "cooc train whitening": "--data PHOTOS/ --out runs/whitening",
    "cooc train metric": "--data PHOTOS/ --out runs/metric",
    "cooc keys create": "owner --scope admin",
    "cooc keys revoke": "ID",
}
"""What the synopsis leaves to the reader."""


def synopsis() -> list[str]:
    return expanded(code("README.md", "Use it from the command line", ""))


def left_open(command: str) -> str:
    found = [rest for start, rest in LEFT_OPEN.items() if command.startswith(start)]
    return found[0] if found else ""


def assert_like(example: Any, real: Any, place: str = "") -> None:
    """That a documented answer has the names and types of a real one."""
    if isinstance(example, dict):
        assert example.keys() <= real.keys(), f"{place}: {example.keys() - real.keys()}"
        for name, value in example.items():
            assert_like(value, real[name], f"{place}/{name}")
    elif isinstance(example, list):
        assert isinstance(real, list) and real, place
        assert_like(example[0], real[0], f"{place}/0")
    elif isinstance(example, int | float):
        assert isinstance(real, int | float), f"{place}: {real}"
    else:
        assert type(example) is type(real), f"{place}: {real}"


def test_a_service_is_started_and_used_in_every_way(tmp_path: Path, forker: str) -> None:
    with reading(tmp_path, forker) as reader:
        first, *_ = commands(code("README.md", "Start", "sh"))
        reader.types(first)
        assert reader.get("/docs").status_code == 200
        use_by_http(reader)
        use_filters_and_urls(reader)
        use_in_python(reader)
        use_by_commands(reader)
        answer = reader.asks("curl -F image=@query.jpg -F limit=5 localhost:8000/search")
        assert_like(json.loads(code("README.md", "Use it from your program", "json")), answer)
        (metrics,) = commands(code("README.md", "Watch it", "sh"))
        assert "\ncooc_ready 1.0\n" in reader.types(metrics)
        operations = reader.get("/openapi.json").json()["paths"]
        assert documented_operations() <= {
            f"{method.upper()} {nameless(path)}"
            for path in operations
            for method in operations[path]
        }


def use_by_http(reader: Reader) -> None:
    said: dict[str, Any] = {}
    for command in commands(code("README.md", "Use it from your program", "sh")):
        said[command] = reader.asks(command)
        if "/jobs/" in command:
            events = reader.types("curl -N localhost:8000/jobs/JOB_ID/events")
    name, job = re.findall(r"^event: (\w+)\ndata: (.*)$", events, re.MULTILINE)[-1]
    assert (name, json.loads(job)["state"]) == ("end", "succeeded")
    assert json.loads(job)["progress"]["added"] == 4

    def answer(part: str) -> Any:
        return next(answer for command, answer in said.items() if part in command)

    assert answer("-X PUT")["id"] == "beach.jpg"
    assert answer("-X PUT")["metadata"] == {"album": "2024"}
    found = answer("-F limit=5 localhost")["results"]
    assert len(found) == 5
    assert found[0]["id"] == "beach.jpg"
    (itself, *_) = answer('"id": "beach.jpg"')["results"]
    assert (itself["id"], itself["match_type"], itself["score"]) == ("beach.jpg", "exact", 1)
    (part, *_) = answer("region=")["results"]
    assert part["id"] == "beach.jpg" and part["match_type"] != "exact"
    assert len(answer("negative=")["results"]) == 5
    batch = answer("/search/batch")["answers"]
    assert [len(one["answer"]["results"]) for one in batch] == [3, 3]
    similar = [result["id"] for result in answer("/similar")["results"]]
    assert len(similar) == 4 and "beach.jpg" not in similar


def use_filters_and_urls(reader: Reader) -> None:
    """The bodies in the text: filters, and images by URL, of which none is allowed by default."""
    bodies = [
        json.loads(filled_in(span))
        for page in ("README.md", "docs/api.md")
        for span in spans(ROOT / page)
        if is_json(span)
    ]
    assert len(bodies) >= 5
    for body in bodies:
        path = next((f"/{path}" for name, path in TAKEN_BY.items() if name in body), None)
        if "width" in body:  # a region
            image = (reader.folder / "beach.jpg").read_bytes()
            files: dict[str, Any] = {"image": image, "region": (None, json.dumps(body))}
            answer = httpx.post(f"{reader.url}/search", files=files, timeout=60)
            assert answer.status_code == 200, answer.text
        elif path is not None:
            answer = httpx.post(f"{reader.url}{path}", json=body, timeout=60)
            assert answer.json()["code"] == "url_not_allowed", answer.text
        else:
            answer = reader.get(f"/images?filter={quote(json.dumps(body))}")
            assert answer.status_code == 200, answer.text


TAKEN_BY = {"query": "search", "images": "index/add"}


def filled_in(span: str) -> str:
    return span.replace("https://...", "https://images.example.com/beach.jpg")


def is_json(span: str) -> bool:
    """Whether it is a whole object."""
    try:
        return isinstance(json.loads(filled_in(span)), dict)
    except ValueError:
        return False


def use_in_python(reader: Reader) -> None:
    script = reader.at_its_port(code("README.md", "In Python", "python"))
    (reader.folder / "script.py").write_text(script)
    *said, last = reader.types("python script.py").splitlines()
    assert any("skipped=4" in line for line in said), "of the job, as it goes on"
    assert "13.jpg the same bytes are indexed as '13.jpg'" in said
    assert re.fullmatch(r"1 beach.jpg 0\.\d+ (near|similar)", last)


def use_by_commands(reader: Reader) -> None:
    said = {}
    for command in synopsis():
        if command.split()[1] in BESIDE and "rebuild" not in command:
            said[command] = reader.types(command, left_open(command))
            if command == "cooc index build":
                # To go back there has to be another.
                reader.types(command)
    assert "60 images: 60 added" in said["cooc index add PHOTOS/"]
    assert said["cooc index build"].startswith("generation 1: 65 images")
    assert said["cooc index rollback"] == "generation 1 is live, 65 images\n"
    assert said["cooc index verify --full"].startswith("no problems found (65 images")
    assert "groups of near-duplicates" in said["cooc index duplicates --report out.html"]
    assert (reader.folder / "out.html").is_file()
    found = next(text for command, text in said.items() if command.startswith("cooc search"))
    assert re.search(r"1 │ 0\.9\d+ │ +\d+\.\d % +│ (near|similar) +│ beach.jpg", found), found
    assert found.count("│ beach.jpg") == 1 and "PHOTOS" not in found


def documented_operations() -> set[str]:
    """`POST /search`, and so on, in all documents."""
    operations = re.compile(r"((?:GET|PUT|POST|PATCH|DELETE) /[\w/{}]+?)/?(?:\?.*|\.\.\.)?")
    named = [operations.fullmatch(span) for page in pages() for span in spans(page)]
    whole = {nameless(match[1]) for match in named if match and "/..." not in match[0]}
    assert "GET /images/{}/original" in whole
    return whole


def nameless(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


def test_commands_that_need_no_service(tmp_path: Path, forker: str) -> None:
    with reading(tmp_path, forker) as reader:
        said = {}
        reader.types("cooc index add PHOTOS/")
        reader.known["DATASET"] = "grocery"
        shutil.copytree(tmp_path / "PHOTOS", tmp_path / "grocery")
        for command in synopsis():
            if command.split()[1] not in (*BESIDE, *ELSEWHERE) or "rebuild" in command:
                said[command] = reader.types(command, left_open(command))
        assert "32 searches answered as when" in said["cooc snapshot restore"]
        assert "60 images are described anew" in said["cooc index rebuild --max-side 1024"]
        described = said["cooc describe a.jpg b.jpg --out descriptors.npy"]
        assert described == "2 descriptors of 8192 values in descriptors.npy\n"
        explained = reader.types("cooc explain QUERY HIT --out why.png")
        assert re.match(r"score 0\.\d+ \(full bilinear\), 0\.\d+ as served", explained)
        assert reader.types("cooc explain IMAGE --out maps.png") == "wrote maps.png\n"
        for name in ("why.png", "maps.png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        evaluate(reader)
        learn(reader)


def evaluate(reader: Reader) -> None:
    """The table has the columns and the kinds of rows that the README shows."""
    (command,) = commands(code("README.md", "Compare methods on your photos", "sh"))
    title, *real = table(reader.types(command))
    sample_title, *sample = table(code("README.md", "Compare methods on your photos", ""))
    described = re.compile(r"grocery: \d+ images, \w+ \w+")
    assert described.fullmatch(title[0]) and described.fullmatch(sample_title[0])
    assert sample[0] == real[0]
    assert {tuple(row[:2]) for row in sample} <= {tuple(row[:2]) for row in real}
    assert (reader.folder / "out.html").is_file()
    tables = reader.types("cooc evaluate DATASET --reproduce table1", "--backbone vgg_lite")
    assert "ours stand alone" in tables and "ChCO-SC_T" in tables


def table(text: str) -> list[list[str]]:
    """The rows of a table, its title the first, however it is drawn."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]
    rows = [re.split(r"\s*[│┃]\s*|\s{2,}", line.strip(" │┃")) for line in lines]
    return [[cell for cell in row if cell] for row in rows]


def learn(reader: Reader) -> None:
    train, serve = commands(code("README.md", "Let it learn from your photos", "sh"))
    reader.types(train)
    reader.environment["COOC_DATA_DIR"] = str(reader.folder / "learned")
    reader.types(serve)
    assert reader.get("/admin/index").json()["recipe"]["cooccurrence_digest"]


def test_the_tensors_have_the_shapes_that_are_said() -> None:
    names: dict[str, Any] = {}
    exec(code("README.md", "Use it from Python", "python"), names)
    assert names["features"].shape == names["cooccurrences"].shape == (1, 512, 24, 32)
    assert names["sketch"].shape == (1, 8192)
    assert torch.isfinite(names["sketch"]).all()


def steps(command: str, folder: Path) -> list[str]:
    """What `make` would do, with its programs in `folder`."""
    words = [*command.split(), "--dry-run", f"VENV={folder}", "EXTRA=cpu"]
    own = {name: value for name, value in os.environ.items() if not INHERITED.match(name)}
    done = subprocess.run(words, cwd=ROOT, env=own, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_make_does_what_is_said_of_it(tmp_path: Path) -> None:
    """`make test` is what runs this, so it is not run here; .ci/run does all of it for real."""
    assert [command.split()[:2] for command in commands(code("README.md", "Start", "sh"))] == [
        ["make", "run"],
        ["make", "test"],
    ]
    new = "\n".join(steps("make run", tmp_path / "new"))
    assert re.search(r"-m venv .*pip install .*'\.\[cpu\]'.*/cooc serve", new, re.DOTALL)
    (tmp_path / "bin").mkdir()
    for made in ("bin/pip", ".installed-cpu-dev"):
        (tmp_path / made).touch()
    checks = steps("make check", tmp_path)
    assert [re.sub(r"^.*?/bin/", "", step).split(" --numprocesses")[0] for step in checks] == [
        "ruff format --check",
        "ruff check",
        "mypy",
        "python -m tests.audit",
        "pytest",
    ]
    assert steps("make test", tmp_path) == checks[-1:]
    assert re.search("^make check ", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


@pytest.mark.parametrize("span", sorted({span for page in pages() for span in settings(page)}))
def test_settings_that_are_written_out_can_be_set(
    span: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for assignment in span.split():
        name, value = assignment.split("=", 1)
        monkeypatch.setenv(name, value)
        assert load_settings().chosen(name.removeprefix("COOC_").lower())
