"""docs/deployment.md and README.md do what they say, with a real docker daemon.

    COOC_TEST_DOCKER=1 pytest tests/test_deployment_docker.py

It builds the images `cooc-image-search`, under the names that a deployment on this machine would
have, and uses the container `cooc` and the volumes `cooc-data`, `cooc-cache` and `cooc-uploads`.
PYTHON_BASE and NGINX_BASE say what is built upon, as everywhere. Containers and volumes are removed
at the end; the images stay, in the cache of the next build (`docker image prune`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.deployment import follow_the_page, follow_the_readme, move_there
from tests.visitor import WAIT_S, Visitor

KILL = """
import os, signal
for name in filter(str.isdigit, os.listdir("/proc")):
    if name != "1" and b"\\0serve\\0" in open(f"/proc/{name}/cmdline", "rb").read():
        os.kill(int(name), signal.SIGKILL)
"""
OWN = ("cooc-data", "cooc-cache", "cooc-uploads")


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], check=True, capture_output=True, text=True)
    return done.stdout


def unavailable() -> str | None:
    """Why this is not tried here."""
    if not os.environ.get("COOC_TEST_DOCKER"):
        return "COOC_TEST_DOCKER is not set: it takes many minutes and a daemon (`docker info`)"
    info = ["docker", "info"]
    if shutil.which("docker") is None or subprocess.run(info, capture_output=True).returncode != 0:
        return "COOC_TEST_DOCKER is set, but `docker info` finds no daemon"
    return None


UNAVAILABLE = unavailable()


@contextmanager
def visiting(folder: Path) -> Iterator[Visitor]:
    """A newcomer with the docker of this machine."""
    folder.mkdir()
    environment = {n: value for n, value in os.environ.items() if not n.startswith("COOC_")}
    base = environment.get("PYTHON_BASE")
    options = f"--build-arg BASE={base}" if base else ""
    visitor = Visitor(folder, environment, trunk="vgg16", build_options=options, timeout_s=3600)
    try:
        yield visitor
    finally:
        visitor.close()
        down = ["docker", "compose", "down", "--volumes"]
        subprocess.run(down, cwd=visitor.clone, env=visitor.environment, check=True)


@pytest.fixture
def own_names() -> Iterator[None]:
    """The container and the volumes of the page that are not in a project are nobody else's."""
    taken = docker("ps", "--all", "--format", "{{.Names}}") + docker("volume", "ls", "--quiet")
    assert {"cooc", *OWN}.isdisjoint(taken.split()), f"remove one of {taken.split()} first"
    yield
    docker("rm", "--force", "cooc")
    docker("volume", "rm", "--force", *OWN)


def it_is_healthy_and_comes_back_when_killed(visitor: Visitor) -> None:
    assert "(healthy)" in visitor.said
    container = visitor.run("docker compose ps -q cooc").strip()
    before = visitor.http.get("/admin/index").json()
    subprocess.run(["docker", "exec", container, "python", "-c", KILL])
    for _ in range(WAIT_S * 5):
        try:
            if visitor.http.get("/readyz").status_code == 200:
                break
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    assert docker("inspect", "--format", "{{.RestartCount}}", container).strip() == "1"
    after = visitor.http.get("/admin/index").json()
    assert (after["count"], after["generation"]) == (before["count"], before["generation"])
    visitor.finds(1, "beach.jpg")


@pytest.mark.slow
@pytest.mark.skipif(UNAVAILABLE is not None, reason=UNAVAILABLE or "")
@pytest.mark.usefixtures("own_names")
def test_the_page_and_the_readme_do_what_they_say(tmp_path: Path) -> None:
    with visiting(tmp_path / "here") as visitor:
        follow_the_page(visitor, it_can_be_watched=it_is_healthy_and_comes_back_when_killed)
        volumes = docker("volume", "ls", "--quiet")
        assert visitor.clone.name not in volumes
        assert "cooc-data" not in volumes
    with visiting(tmp_path / "there") as newcomer:
        follow_the_readme(newcomer)
        move_there(newcomer, visitor.clone / "snapshots.tar")
