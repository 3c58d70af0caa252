from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path for folder in ("app", "engine", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
FAISS = ("engine/vector_index/", "benchmarks/search_engines/")
NAMES = [str(path.relative_to(ROOT)) for path in FILES]


def imported(name: str) -> set[str]:
    """Every module that a file imports, anywhere in it: `a.b` and, for `from a import b`, both."""
    package = Path(name).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def packages(name: str) -> set[str]:
    return {module.split(".")[0] for module in imported(name)}


def within(*prefixes: str) -> list[str]:
    for prefix in prefixes:
        assert any(name.startswith(prefix) for name in NAMES), f"nothing begins with {prefix}"
    return [name for name in NAMES if name.startswith(prefixes)]


def test_the_files_are_found() -> None:
    assert {"app/main.py", "engine/images.py", "engine/pooling/bilinear.py"} <= set(NAMES)
    assert "engine.pooling" in imported("engine/describer.py")
    assert "engine.errors.BadImage" in imported("engine/images.py")
    assert "uvicorn" in packages("app/cli.py")  # inside a function


@pytest.mark.parametrize("name", within("engine/"))
def test_the_engine_knows_nothing_of_http_and_settings(name: str) -> None:
    forbidden = {"app", "benchmarks", "tests", "fastapi", "starlette", "uvicorn", "typer"}
    forbidden |= {"pydantic", "pydantic_settings"}
    assert not packages(name) & forbidden


@pytest.mark.parametrize("name", within("app/"))
def test_the_app_leaves_numbers_to_the_engine(name: str) -> None:
    assert not packages(name) & {"torch", "faiss", "tests"}


@pytest.mark.parametrize("name", NAMES)
def test_images_are_opened_in_one_place(name: str) -> None:
    uses = packages(name) & {"PIL", "pillow_heif"}
    if name.startswith("engine/made/"):
        # It draws, and opens nothing that came from elsewhere.
        assert uses <= {"PIL", "pillow_heif"}
    else:
        assert uses == ({"PIL", "pillow_heif"} if name == "engine/images.py" else set())


@pytest.mark.parametrize("name", NAMES)
def test_faiss_is_used_in_one_place(name: str) -> None:
    assert "faiss" not in packages(name) or name.startswith(FAISS)


@pytest.mark.parametrize(
    "name",
    within(
        "engine/pooling/",
        "engine/cooccurrence.py",
        "engine/max_correlation.py",
        "engine/postprocess/",
        "engine/expansion.py",
        "engine/augmentation.py",
        "engine/nearest.py",
        "engine/explaining/",
        "engine/evaluation/average_precision.py",
        "engine/evaluation/protocols.py",
        "engine/evaluation/same_origin.py",
        "engine/evaluation/methods.py",
        "engine/evaluation/published.py",
    ),
)
def test_computations_touch_no_files_and_log_nothing(name: str) -> None:
    assert not packages(name) & {"logging", "pathlib", "os", "io", "shutil", "tempfile"}


WATCHED = """
import json, sys

opened, connected = [], []


def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        opened.append([str(path), bool(flags & 3)])
    elif event in ("socket.connect", "socket.getaddrinfo"):
        connected.append(event)


sys.addaudithook(watch)
import app.main, app.cli, engine.searcher

print(json.dumps({"opened": opened, "connected": connected}))
"""


def test_importing_the_program_reads_no_weights_and_writes_nothing(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("COOC_")
    }
    environment |= {
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["connected"] == []
    opened = [path for path, _ in seen["opened"]]
    assert any(path.endswith("searcher.py") or "searcher." in path for path in opened)
    kinds = (".pth", ".pt", ".safetensors", ".sqlite", ".faiss")
    assert [path for path in opened if path.endswith(kinds)] == []
    written = [path for path, writes in seen["opened"] if writes and path != os.devnull]
    assert written == []
    assert list(tmp_path.iterdir()) == []
