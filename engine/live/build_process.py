"""A build in a process of its own, which leaves the searches of this one their time and memory.

`python -m engine.live.build_process` is that process: it reads one line of JSON, writes one for
each step and every second, and ends with its parent, whose end closes its standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from safetensors.torch import load_file, save

from engine import errors
from engine.catalog import Catalog
from engine.errors import EngineError
from engine.files.storage import storage_errors
from engine.generations import BuildPlan, Generations, Manifest, Reporter
from engine.postprocess import LinearProjection
from engine.types import Recipe
from engine.vector_index import BuildOptions

NICENESS = 10
"""Searches go first wherever both want the same core."""
BEAT_S = 1.0
"""How often the child says that it is at work: a step may take minutes, and its parent may want
to stop it."""


def build_in_process(data_dir: Path, number: int, plan: BuildPlan, report: Reporter) -> Manifest:
    """As `Generations.build` of all images of the catalog in `data_dir`.

    What `report` raises ends the process. Raises, besides, what the build raised there.
    """
    with (
        storage_errors(data_dir),
        tempfile.TemporaryDirectory(dir=data_dir, prefix="build-") as folder,
        _child() as child,
    ):
        learned = None
        if plan.learned is not None:
            learned = str(Path(folder) / "learned.safetensors")
            tensors = {"mean": plan.learned.mean, "directions": plan.learned.directions}
            # Not `save_file`: it hides the error of a full disk in one of its own.
            Path(learned).write_bytes(save({n: value.contiguous() for n, value in tensors.items()}))
        task = {
            "data_dir": str(data_dir),
            "number": number,
            "recipe": plan.recipe.to_json(),
            "precision": plan.precision,
            "options": asdict(plan.options),
            "learned": learned,
        }
        assert child.stdin is not None and child.stdout is not None, "both are pipes"
        with suppress(BrokenPipeError):  # it has ended already: that is told below
            child.stdin.write(json.dumps(task) + "\n")
            child.stdin.flush()
        step = 0, 0
        for line in child.stdout:
            message = json.loads(line)
            if "phase" in message:
                step = 0, 0
                report.phase(message["phase"])
            elif "error" in message:
                raise _error(message)
            elif "done" in message:
                step = message["done"], message["total"]
                report.progress(*step)
            elif "beat" in message:
                report.progress(*step)
            else:
                return Manifest(**message["manifest"])
        raise EngineError(
            f"the process of the build ended with code {child.wait()}, perhaps for want of memory; "
            "the live index stays as it is, build again"
        )


@contextmanager
def _child() -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "engine.live.build_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C is for this process alone; the child follows its end.
        # Not a session of its own: Linux gives each session an equal share, however nice.
        process_group=0,
        # Threads that wait for each other do so asleep, not on a core that searches could use.
        env={
            "OMP_WAIT_POLICY": "passive",
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
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


class Messages:
    """What the parent is told: one line of JSON each. For several threads."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(message) + "\n")
            self._file.flush()


def main() -> None:
    # Whatever a library prints belongs into the log, not between the messages.
    messages = Messages(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=_beat, args=(messages,), daemon=True).start()
    os.nice(NICENESS)
    try:
        messages.send({"manifest": asdict(_build(task, messages))})
    except EngineError as error:
        messages.send({"error": type(error).__name__, "detail": error.message})


def _build(task: dict[str, Any], messages: Messages) -> Manifest:
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
                lambda done, total: messages.send({"done": done, "total": total}),
                lambda name: messages.send({"phase": name}),
            ),
            number=task["number"],
        )
    finally:
        catalog.close()


def _beat(messages: Messages) -> None:
    while True:
        time.sleep(BEAT_S)
        messages.send({"beat": None})


def _end_with_parent() -> None:
    # Not through `sys.stdin`, whose lock an ending interpreter wants.
    while os.read(0, 4096):
        pass
    # At once: a new owner of the folder may be about to start.
    os._exit(1)


if __name__ == "__main__":
    main()
