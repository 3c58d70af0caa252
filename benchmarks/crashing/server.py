"""A real service in a process of its own, to be killed and started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.ports import free_port

UNTRAINED = {
    "COOC_BACKBONE": "squeezenet1_1",
    "COOC_WEIGHTS": "untrained",
    "COOC_MAX_SIDE": "128",
}
"""The smallest trunk: what is tested is not what a model finds."""

START_LIMIT_S = 300.0
_COMPLAINT = re.compile(r"\S+Z ((?:WARNING|ERROR|CRITICAL) .*)")
_ORIGIN = re.compile(r" (?:request|job)_ids?=\S+")
_REPLAYED = re.compile(r"replayed (\d+) added and (\d+) removed")


@dataclass(frozen=True)
class Start:
    """What came of a start: `refusal` says why there is no working service, None if there is one.

    `seconds` from the start of the process to the first 200 of `/readyz`, `cpu_seconds` of them at
    work (a busy machine makes it wait); `replayed` counts the rows that were made up for, `log` is
    what the process has written.
    """

    seconds: float
    cpu_seconds: float
    refusal: str | None
    log: str

    @property
    def replayed(self) -> int:
        return sum(int(added) + int(gone) for added, gone in _REPLAYED.findall(self.log))


class Service:
    """`cooc serve` on a free port of the loopback address, with one data folder."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.log_file = folder.with_suffix(".log")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        own = {key: value for key, value in os.environ.items() if not key.startswith("COOC_")}
        self._environment = {
            **own,
            **(UNTRAINED if environment is None else environment),
            "COOC_DATA_DIR": str(folder),
            "COOC_PORT": str(port),
            "COOC_LOG_FORMAT": "text",
        }
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begin = 0

    def begin(self) -> None:
        """Start the process; it is not ready yet."""
        self._log_begin = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._began = time.monotonic()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", "serve"],
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> Start:
        """Until it answers for its readiness, has ended, or took longer than anybody waits."""
        refusal = f"not ready after {START_LIMIT_S:g} s"
        while time.monotonic() - self._began < START_LIMIT_S:
            assert self._process is not None
            if self._process.poll() is not None:
                refusal = f"ended with code {self._process.returncode}: {self._last_line()}"
                break
            try:
                answer = self.http.get("/readyz")
            except httpx.TransportError:
                time.sleep(0.005)
                continue
            seconds = time.monotonic() - self._began
            ready = answer.status_code == 200
            refused = None if ready else detail(answer)
            return Start(seconds, _cpu_seconds(self._process.pid), refused, self.log())
        return Start(time.monotonic() - self._began, 0.0, refusal, self.log())

    def start(self) -> Start:
        self.begin()
        return self.wait_ready()

    def log(self) -> str:
        """What the process that runs now, or ran last, has written."""
        if self._process is None:
            return ""
        with self.log_file.open("rb") as file:
            file.seek(self._log_begin)
            return file.read().decode(errors="replace")

    def complaints(self) -> list[str]:
        """Lines of the log that are warnings or errors, without time and without doubles."""
        found = (_COMPLAINT.match(line) for line in self.log().splitlines())
        return list(dict.fromkeys(_ORIGIN.sub("", line[1]) for line in found if line))

    def _last_line(self) -> str:
        lines = self.log().strip().splitlines()
        return lines[-1].strip() if lines else "no word"

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """As a power cut would, as far as a process can tell: no chance to tidy up."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """As an operator would."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=60)

    def close(self) -> None:
        self.kill()
        self.http.close()

    def verify(self) -> list[str]:
        """Problems that `cooc index verify` finds in the folder of a stopped service."""
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", "index", "verify"],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return []
        told = (done.stdout.strip() or done.stderr.strip()).splitlines()
        return [line.strip() for line in told] or [f"verify ended with code {done.returncode}"]

    def paths(self) -> dict[str, Any]:
        """The addresses that this service has, with their methods, as it describes them itself."""
        paths: dict[str, Any] = self.http.get("/openapi.json").json()["paths"]
        return paths


def _cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def detail(answer: httpx.Response) -> str:
    """The service's own words for a problem."""
    try:
        return f"{answer.status_code}: {answer.json()['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code}: {answer.text[:200]}"
