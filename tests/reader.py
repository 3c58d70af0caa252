"""Somebody who types the commands of the documents, in a folder with the files that they name."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from tests.cooc_shim import CLIENT
from tests.documented import ROOT
from tests.drawing import encode, photo, scene, view
from tests.patience import until
from tests.proxy import free_port
from tests.server import START_S

ADDRESS = re.compile(r"\b(localhost|127\.0\.0\.1):8000\b")
SERVES = re.compile(r"\b(cooc serve|make run)\b")
UNANSWERED_S = 60
INHERITED = re.compile("COOC_|MAKE|MFLAGS")
"""Variables of whoever runs the tests, `make check` among them, that readers do not have."""


class Reader:
    """Has a folder, a service once one was started, and in mind what JOB_ID and so on stand for."""

    def __init__(self, folder: Path, forker: str, **environment: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = folder / "index_data"
        self.known = {"QUERY": "query.jpg", "HIT": "hit.jpg", "IMAGE": "a.jpg"}
        self.service: subprocess.Popen[bytes] | None = None
        self.environment = {
            **{name: value for name, value in os.environ.items() if not INHERITED.match(name)},
            **_programs(folder, forker),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "CURL_HOME": str(folder),  # where .curlrc is
            "PIP_NO_INDEX": "1",
            "VENV": str(folder / ".venv"),  # for make
            "EXTRA": "cpu",
            "COOC_WEIGHTS": "bundled",
            "COOC_MAX_SIDE": "96",
            "COOC_DATA_DIR": str(self.data),
            "COOC_CACHE_DIR": str(folder / "cache"),
            "COOC_PORT": str(self.port),
            **environment,
        }

    def types(self, command: str, arguments: str = "") -> str:
        """Run a documented command, with arguments that it leaves open: what it prints.

        One that serves goes on, in the place of the last, once it is ready; then this is empty.
        """
        meant = self.at_its_port(f"{command} {arguments}".strip())
        for name, value in self.known.items():
            meant = re.sub(rf"\b{name}\b(?!=)", value, meant)
        if SERVES.search(meant):
            self._serve(meant)
            return ""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", meant],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=10 * UNANSWERED_S,
        )
        assert done.returncode == 0, f"{meant}\n{done.stdout}{done.stderr}{self.log()}"
        self._remember(done.stdout)
        return done.stdout

    def asks(self, command: str, arguments: str = "") -> Any:
        """The JSON that a command prints."""
        return json.loads(self.types(command, arguments))

    def at_its_port(self, text: str) -> str:
        """What says 8000 in a document."""
        return ADDRESS.sub(rf"\1:{self.port}", text)

    def finish(self, job_id: str) -> dict[str, Any]:
        """A job, when it has ended."""
        job: dict[str, Any] = {}

        def ended() -> bool:
            job.update(self.get(f"/jobs/{job_id}").json())
            return job["state"] not in ("queued", "running")

        until(ended, START_S)
        return job

    def get(self, path: str) -> httpx.Response:
        key = self.environment.get("KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.get(f"{self.url}{path}", headers=headers, timeout=UNANSWERED_S)

    def log(self) -> str:
        """What the service has said."""
        log = self.folder / "service.log"
        return log.read_text() if log.exists() else "no service was started"

    def logged(self, event: str) -> dict[str, Any]:
        """The first line of the log with this event; requests are logged after their answers."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            whole = self.log().split("\n")[:-1]
            lines = [json.loads(line) for line in whole if line.startswith("{")]
            found.extend(line for line in lines if line["event"] == event)
            return bool(found)

        until(there)
        return found[0]

    def stop(self) -> None:
        """End the service, and `make` if that runs it."""
        if self.service is not None:
            os.killpg(self.service.pid, signal.SIGTERM)
            self.service.wait(START_S)
            self.service = None

    def _serve(self, command: str) -> None:
        self.stop()
        with (self.folder / "service.log").open("ab") as log:
            self.service = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=ROOT if command.startswith("make") else self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._is_ready, START_S)

    def _is_ready(self) -> bool:
        assert self.service is not None
        try:
            answer = self.get("/readyz")
        except httpx.TransportError:
            assert self.service.poll() is None, self.log()
            return False
        assert answer.status_code in (200, 503), self.log()  # 503: not yet
        return answer.status_code == 200

    def _remember(self, said: str) -> None:
        """What later commands name: a job, a snapshot, a key. Of keys the first, unless given."""
        for name, pattern in (
            ("JOB_ID", r'\{"id":"([^"]+)","type":'),
            ("NAME", r"/snapshots/(\S+)"),
            ("ID", r"^cooc_(\w+)_"),
        ):
            if found := re.findall(pattern, said, re.MULTILINE):
                self.known[name] = found[-1]
        if key := re.search(r"^cooc_\S+$", said, re.MULTILINE):
            self.environment.setdefault("KEY", key[0])


def _programs(folder: Path, forker: str) -> dict[str, str]:
    """What `make run` would have installed, so that it has nothing to do; and the PATH to it."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    client = folder / "client.py"
    client.write_text(CLIENT.format(python=sys.executable, socket=forker))
    calls = {"cooc": f"-IS {client}", "pip": "-m pip", "python": ""}
    for name, call in calls.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {call} "$@"\n')
        (programs / name).chmod(0o755)
    (folder / ".venv" / ".installed-cpu").touch()
    # An error is one: what is refused ends the script, with the problem document.
    options = ("fail-with-body", "silent", "show-error", "noproxy = *", "max-time = 60")
    (folder / ".curlrc").write_text("\n".join(options))
    return {"PATH": f"{programs}:{os.environ['PATH']}"}


def put_photos(folder: Path) -> None:
    """The photos that the documents name; query.jpg is a part of beach.jpg."""
    for seed, name in enumerate(("beach", "red1", "red2", "blue", "a", "b", "hit")):
        (folder / f"{name}.jpg").write_bytes(photo(seed, (320, 240)))
    (folder / "query.jpg").write_bytes(view(scene(0, (320, 240)), keep=0.9, scale=0.9))
    with zipfile.ZipFile(folder / "holiday.zip", "w") as archive:
        for seed in range(10, 14):
            archive.writestr(f"{seed}.jpg", photo(seed))
    for thing in range(6):
        (folder / "PHOTOS" / f"thing{thing}").mkdir(parents=True)
        for number in range(10):
            seen = scene(100 + thing, (96, 72)).rotate(5 * number, Image.Resampling.BILINEAR)
            (folder / "PHOTOS" / f"thing{thing}" / f"{number}.jpg").write_bytes(encode(seen))


@contextmanager
def forking() -> Iterator[str]:
    """The socket of a process that runs `cooc` for readers."""
    with tempfile.TemporaryDirectory() as folder:  # paths of sockets are short
        path = Path(folder) / "socket"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cooc_shim", str(path)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:

            def listens() -> bool:
                assert process.poll() is None
                return path.exists()

            until(listens, START_S)
            yield str(path)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def reading(folder: Path, forker: str = "", **environment: str) -> Iterator[Reader]:
    """A reader in a folder with photos; many commands are quicker with a `forker`."""
    put_photos(folder)
    reader = Reader(folder, forker, **environment)
    try:
        yield reader
    finally:
        reader.stop()
