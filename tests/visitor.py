"""Somebody who has just cloned the repository, and what they need to try it."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.drawing import photo
from tests.proxy import free_port
from tests.shell import Shell

ROOT = Path(__file__).resolve().parents[1]
WAIT_S = 300


@dataclass(frozen=True)
class Ports:
    """Free ones in the place of those on the page, so that nothing else is in the way."""

    http: int
    https: int
    alone: int

    @classmethod
    def free(cls) -> Ports:
        return cls(free_port(), free_port(), free_port())

    def written_into(self, code: str) -> str:
        """The commands with these ports; what they publish is published on loopback alone."""
        code = code.replace("HTTPS_PORT=8443", f"HTTPS_PORT=127.0.0.1:{self.https}")
        code = code.replace("localhost:8443", f"localhost:{self.https}")
        code = code.replace("localhost:8080", f"localhost:{self.http}")
        code = code.replace("localhost:8000", f"localhost:{self.alone}")
        return code.replace("127.0.0.1:8000:", f"127.0.0.1:{self.alone}:")


def repository(folder: Path) -> Path:
    """One with the files of this one as they are now, to be cloned and pulled from."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], cwd=folder, check=True)
    commit(folder, "As it is")
    return folder


def commit(folder: Path, message: str) -> None:
    own = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["add", "--all"], [*own, "commit", "--quiet", "--message", message]):
        subprocess.run(["git", *words], cwd=folder, check=True)


class Visitor:
    """Somebody with a clone of the repository, photos, and weights of their own for `trunk`.

    Args:
        folder: for all of it.
        build_options: of `docker build`, where it needs some.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *,
        trunk: str,
        build_options: str = "",
        timeout_s: float = 900,
    ) -> None:
        self.trunk, self.build_options, self.timeout_s = trunk, build_options, timeout_s
        self.origin = repository(folder / "origin")
        # Compose names volumes after it.
        self.clone = folder / f"cooc-docs-{uuid.uuid4().hex[:8]}"
        subprocess.run(["git", "clone", "--quiet", str(self.origin), str(self.clone)], check=True)
        self.photos = folder / "photos"
        self.photos.mkdir()
        for number in (20, 21):
            (self.photos / f"{number}.jpg").write_bytes(photo(number))
        (self.clone / "beach.jpg").write_bytes(photo(1))
        (self.clone / "query.jpg").write_bytes(photo(1))
        with zipfile.ZipFile(self.clone / "holiday.zip", "w") as archive:
            for number in range(2, 5):
                archive.writestr(f"{number}.jpg", photo(number))
        self.ports = Ports.free()
        self.environment = {**environment, "HTTP_PORT": f"127.0.0.1:{self.ports.http}"}
        self.shell = Shell(self.clone, self.environment, folder)
        self.said = ""
        self.http = httpx.Client(base_url=f"http://localhost:{self.ports.http}", timeout=60)

    def run(self, code: str) -> str:
        code = self.ports.written_into(code)
        code = code.replace("docker build ", f"docker build {self.build_options} ")
        self.said = self.shell.run(code, timeout_s=self.timeout_s)
        return self.said

    def with_key(self, key: str) -> None:
        self.http.headers["Authorization"] = f"Bearer {key}"

    def finds(self, number: int, name: str, http: httpx.Client | None = None) -> None:
        """Asserts that this drawn photo is the first that a search with it finds."""
        answer = (http or self.http).post("/search", files={"image": photo(number)})
        assert answer.status_code == 200, answer.text
        first = answer.json()["results"][0]
        assert (first["id"], first["match_type"], first["rank"]) == (name, "exact", 1)

    def waits_for_jobs(self) -> None:
        for _ in range(WAIT_S * 5):
            jobs = self.http.get("/jobs").json()["jobs"]
            if not any(job["state"] in ("queued", "running") for job in jobs):
                assert {job["state"] for job in jobs} == {"succeeded"}, jobs
                return
            time.sleep(0.2)
        raise AssertionError(jobs)

    def certificate(self) -> str:
        return ssl.get_server_certificate(("localhost", self.ports.https), timeout=60)

    def securely(self) -> httpx.Client:
        trusted = ssl.create_default_context(cafile=self.clone / "tls" / "fullchain.pem")
        url = f"https://localhost:{self.ports.https}"
        return httpx.Client(base_url=url, verify=trusted, headers=self.http.headers, timeout=60)

    def close(self) -> None:
        self.shell.close()
        self.http.close()
