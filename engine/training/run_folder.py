"""The folder of one run of training: what was asked for, what happened, where it stands.

config.json   what decides the result
training.lock held by the process that trains
log.jsonl     a line for every few steps and for every validation
curves.png    the log as a picture
last.pt       the newest checkpoint, from which the run goes on
best.pt       the model that validated best
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from engine.errors import InvalidOption, TrainingFailed
from engine.files.storage import storage_errors, write_atomically
from engine.pictures import training_curves
from engine.training.folder_lock import FILE as LOCK_FILE
from engine.training.folder_lock import FolderLock, make_folder
from engine.types import Json

VERSION = 1
BESIDE = "beside"

_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    struct.error,
    pickle.UnpicklingError,
)
"""What `torch.load` raises on files that are damaged or something else."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on as if it had never stopped.

    Attributes:
        epoch, step: what comes next; `step` counts within the epoch.
        model, optimizer: state dicts.
        task: what the task keeps of the epoch that was begun (mined negatives).
        best: score and epoch of the best validation so far, if there was one.
        log_bytes: how long the log was.
        seconds: the run has taken so far.
    """

    epoch: int
    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    task: dict[str, Any]
    best: tuple[float, int] | None
    log_bytes: int
    seconds: float


class RunFolder:
    """Files of one run; every one is written whole or not at all.

    The folder is held until the end of a `with`, or as long as something refers to this.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        *,
        beside: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        """Begin a run, or open the one to resume.

        A run of which there is nothing but its config, as where its input was of no use, is begun
        anew.

        Args:
            config: plain values, all that decides the result.
            beside: plain values that do not, kept for those who resume the run; see
                `stored_beside`.
            resume: go on with the run that is there; without one, begin.

        Raises: InvalidOption if there is a run already and `resume` is not asked for, or another
            process trains in the folder; TrainingFailed if the run there has another config;
            StorageFull, StorageReadOnly.
        """
        self.path = path
        self.config: Json = json.loads(json.dumps(dict(config)))
        with storage_errors(path):
            make_folder(path)
            there = self.config_file.is_file()
            if not there and any(_is_content(entry) for entry in path.iterdir()):
                raise InvalidOption(
                    f"{path} is neither empty nor a run of training; choose another folder"
                )
            self._lock = FolderLock(path)
            # Folders hold what was made of the input: each has a recipe of its own.
            if there and any(_is_content(entry) and entry.is_file() for entry in path.iterdir()):
                self._check(resume)
            else:
                content = {"version": VERSION, **self.config, BESIDE: dict(beside or {})}
                text = json.dumps(content, indent=1)
                write_atomically(self.config_file, text.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Let another process train in the folder."""
        self._lock.__exit__(*error)

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def log_file(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def last_file(self) -> Path:
        return self.path / "last.pt"

    @property
    def best_file(self) -> Path:
        return self.path / "best.pt"

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one line to the log."""
        with storage_errors(self.path), self.log_file.open("a") as file:
            file.write(json.dumps(dict(entry)) + "\n")

    def entries(self) -> list[Json]:
        """The log so far; a last line that was cut off is left out."""
        if not self.log_file.is_file():
            return []
        lines = self.log_file.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace `last.pt`; the one before stays where that fails."""
        self._write(self.last_file, {"version": VERSION, "config": self.config, **vars(checkpoint)})

    def load(self) -> Checkpoint | None:
        """The newest checkpoint, None before the first; cuts the log back to what it knew.

        Raises: TrainingFailed for a file that is damaged or of another recipe.
        """
        if not self.last_file.is_file():
            self._cut_log(0)
            return None
        names = Checkpoint.__dataclass_fields__
        content = self._read(self.last_file, names)
        if content["config"] != self.config:
            raise TrainingFailed(
                f"{self.last_file} is a checkpoint of another recipe "
                f"({'; '.join(_differences(content['config'], self.config))}); "
                "put it back where it belongs, or begin in a new folder"
            )
        checkpoint = Checkpoint(**{name: content[name] for name in names})
        self._cut_log(checkpoint.log_bytes)
        return checkpoint

    def log_bytes(self) -> int:
        return self.log_file.stat().st_size if self.log_file.is_file() else 0

    def save_best(
        self, model: Mapping[str, Any], *, epoch: int, scores: Mapping[str, float]
    ) -> None:
        """Replace `best.pt`."""
        content = {"version": VERSION, "config": self.config, "model": dict(model)}
        self._write(self.best_file, {**content, "epoch": epoch, "scores": dict(scores)})

    def load_best(self) -> Json:
        """`model`, `epoch` and `scores` of the best validation. Raises: TrainingFailed."""
        return self._read(self.best_file, ("model", "epoch", "scores"))

    def draw(self) -> None:
        """`curves.png` of the log so far."""
        picture = training_curves(self.entries(), title=self.path.name)
        with storage_errors(self.path):
            write_atomically(self.path / "curves.png", picture)

    def _check(self, resume: bool) -> None:
        if not resume:
            raise InvalidOption(
                f"a run is in {self.path} already; add --resume to go on with it, "
                "or choose another folder"
            )
        try:
            stored = _object(self.config_file)
        except ValueError as error:
            raise TrainingFailed(f"{self.config_file} is damaged: {error}") from error
        stored.pop(BESIDE, None)
        version = stored.pop("version", None)
        if version != VERSION:
            raise TrainingFailed(
                f"{self.config_file} has version {version}, not {VERSION}; begin in a new folder"
            )
        other = _differences(stored, self.config)
        if other:
            raise TrainingFailed(
                f"the run in {self.path} has another recipe ({'; '.join(other)}); "
                "leave these options out, or begin in a new folder"
            )

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        with storage_errors(self.path):
            write_atomically(path, buffer.getvalue())

    def _read(self, path: Path, names: Iterable[str]) -> Json:
        try:
            # weights_only: a pickle may otherwise run any code.
            content: Json = torch.load(path, map_location="cpu", weights_only=True)
            if content["version"] != VERSION:
                raise ValueError(f"it has version {content['version']}, not {VERSION}")
            missing = [name for name in ("config", *names) if name not in content]
            if missing:
                raise ValueError(f"it has no {missing[0]!r}")
        except _UNREADABLE as error:
            raise TrainingFailed(f"cannot read the checkpoint {path}: {error}") from error
        return content

    def _cut_log(self, size: int) -> None:
        """Forget lines of steps that will be made again."""
        if self.log_file.is_file():
            with storage_errors(self.path):
                # After a power cut it may be shorter than it was; `truncate` would fill it up.
                os.truncate(self.log_file, min(size, self.log_bytes()))


def _is_content(entry: Path) -> bool:
    """Whether a run has left more than its config; cut off at once it leaves a part of that."""
    return entry.suffix != ".part" and entry.name not in ("config.json", LOCK_FILE)


def stored_config(path: Path) -> Json:
    """What the run in a folder was asked for. Raises: InvalidOption if there is none."""
    config = _config(path)
    config.pop(BESIDE, None)
    return config


def stored_beside(path: Path) -> Json:
    """What it was asked for that does not decide its result. Raises: InvalidOption likewise."""
    return {**_config(path).get(BESIDE, {})}


def _config(path: Path) -> Json:
    file = path / "config.json"
    try:
        config = _object(file)
    except (OSError, ValueError) as error:
        raise InvalidOption(f"no run of training is in {path}: cannot read {file.name}") from error
    config.pop("version", None)
    return config


def _object(file: Path) -> Json:
    """The JSON object in a file. Raises: OSError, ValueError."""
    content = json.loads(file.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__}, not an object")
    return content


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**stored, **wanted} if stored.get(name) != wanted.get(name)]
    return [_difference(name, stored.get(name), wanted.get(name)) for name in names]


def _difference(name: str, stored: object, wanted: object) -> str:
    # Left at auto, another machine chooses another one.
    remedy = {True: ", add --precision mixed", False: ", add --precision float32"}
    more = remedy.get(bool(stored), "") if name == "mixed" else ""
    return f"{name} is {stored!r}, not {wanted!r}{more}"
