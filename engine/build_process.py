"""A build in a process of its own, which leaves the searches of this one their time and memory.

`python -m engine.build_process` is that process: it reads one line of JSON, writes one for each
step, and ends with its parent, whose end closes its standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from engine import errors
from engine.catalog import Catalog
from engine.errors import EngineError
from engine.generations import BuildPlan, Generations, Manifest, Reporter
from engine.postprocess import LinearProjection
from engine.storage import storage_errors
from engine.types import Recipe
from engine.vector_index import BuildOptions

NICENESS = 10
"""Searches go first wherever both want the same core."""


def build_in_process(data_dir: Path, number: int, plan: BuildPlan, report: Reporter) -> Manifest:
    """As `Generations.build` of all images of the catalog in `data_dir`.

    What `report` raises ends the process. Raises, besides, what the build raised there.
    """
    with tempfile.TemporaryDirectory(dir=data_dir, prefix="build-") as folder, _child() as child:
        learned = None
        if plan.learned is not None:
            learned = str(Path(folder) / "learned.safetensors")
            tensors = {"mean": plan.learned.mean, "directions": plan.learned.directions}
            with storage_errors(data_dir):
                save_file({name: value.contiguous() for name, value in tensors.items()}, learned)
        task = {
            "data_dir": str(data_dir),
            "number": number,
            "recipe": plan.recipe.to_json(),
            "precision": plan.precision,
            "options": asdict(plan.options),
            "learned": learned,
        }
        assert child.stdin is not None and child.stdout is not None, "both are pipes"
        child.stdin.write(json.dumps(task) + "\n")
        child.stdin.flush()
        for line in child.stdout:
            message = json.loads(line)
            if "phase" in message:
                report.phase(message["phase"])
            elif "error" in message:
                raise _error(message)
            elif "done" in message:
                report.progress(message["done"], message["total"])
            else:
                return Manifest(**message["manifest"])
        raise EngineError(
            f"the process of the build ended with code {child.wait()}, perhaps for want of memory; "
            "the live index stays as it is, build again"
        )


@contextmanager
def _child() -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "engine.build_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        yield child
    finally:
        # No more than the end of it is left to wait for, whatever happened here.
        child.kill()
        child.communicate()


def _error(message: dict[str, Any]) -> EngineError:
    kind = getattr(errors, message["error"], EngineError)
    found: EngineError = kind(message["detail"])
    return found


# --- the other side ----------------------------------------------------------------------------


def main() -> None:
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(NICENESS)
    try:
        _send({"manifest": asdict(_build(task))})
    except EngineError as error:
        _send({"error": type(error).__name__, "detail": error.message})


def _build(task: dict[str, Any]) -> Manifest:
    data_dir = Path(task["data_dir"])
    learned = None
    if task["learned"]:
        tensors = load_file(task["learned"])
        learned = LinearProjection(tensors["mean"], tensors["directions"])
    plan = BuildPlan(
        Recipe.from_json(task["recipe"]),
        task["precision"],
        BuildOptions(**task["options"]),
        learned,
    )
    catalog = Catalog(data_dir / "catalog.sqlite")
    try:
        return Generations(data_dir).build(
            catalog.live_rows(),
            catalog.descriptors,
            plan,
            Reporter(
                lambda done, total: _send({"done": done, "total": total}),
                lambda name: _send({"phase": name}),
            ),
            number=task["number"],
        )
    finally:
        catalog.close()


def _send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    sys.stdin.read()
    # At once: a new owner of the folder may be about to start.
    os._exit(1)


if __name__ == "__main__":
    main()
