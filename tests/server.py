"""A real service in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.patience import until
from tests.proxy import free_port

SMALL = {"COOC_BACKBONE": "squeezenet1_1", "COOC_WEIGHTS": "untrained", "COOC_MAX_SIDE": "128"}
START_S = 300
"""How long a slow machine may take to start a service or to end it, which takes seconds."""


class Server:
    """`cooc serve` on a free port of the loopback address."""

    def __init__(
        self, folder: Path, program: Sequence[str] = ("-m", "app.cli"), **environment: str
    ) -> None:
        """`program`: what Python runs, if not the commands."""
        self.folder = folder
        self.program = program
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("COOC_")},
            **SMALL,
            "COOC_DATA_DIR": str(folder),
            "COOC_PORT": str(self.port),
            **environment,
        }
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.start()

    def start(self) -> None:
        self.log = (self.folder.parent / "server.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, *self.program, "serve"],
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
        )
        until(self._answers, START_S)

    def _answers(self) -> bool:
        try:
            self.http.get("/livez")
        except httpx.TransportError:
            assert self.process.poll() is None, (self.folder.parent / "server.log").read_text()
            return False
        return True

    def kill(self) -> None:
        """As a power cut would: no chance to tidy up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def stop(self) -> int:
        """As an operator would; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(timeout=START_S)
        self.log.close()
        return code

    def finish(self, job_url: str) -> dict[str, object]:
        for _ in range(3000):
            job: dict[str, object] = self.http.get(job_url).json()
            if job["state"] not in ("queued", "running"):
                return job
            time.sleep(0.1)
        raise AssertionError(f"the job did not end: {job}")


@contextmanager
def serving(
    folder: Path, program: Sequence[str] = ("-m", "app.cli"), **environment: str
) -> Iterator[Server]:
    server = Server(folder, program, **environment)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
        server.http.close()
