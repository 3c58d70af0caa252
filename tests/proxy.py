"""The nginx of docker/ in front of a service, on the loopback address; and services for it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.ports import free_port as free_port
from tests.patience import until

START = Path(__file__).resolve().parents[1] / "docker" / "nginx" / "start.sh"


def missing() -> str | None:
    """Why there can be no proxy on this machine; None if there can."""
    for program in ("nginx", "envsubst"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            return f"{program} is not installed"
    return None


def start_script(folder: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    """start.sh with these settings alone; it writes below `folder` unless told otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "access.log").open("ab") as log:
        return subprocess.Popen(
            [str(START), *arguments],
            env={"PATH": f"{os.environ['PATH']}:/usr/sbin"} | {"RUN_DIR": str(folder)} | settings,
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
        )


@contextmanager
def proxied(folder: Path, upstream_port: int, **settings: str) -> Iterator[str]:
    """The address of a proxy before a service on that port; `folder` gets its logs."""
    port = free_port()
    # Started by root, nginx works as a user who cannot look into the folders of tests.
    run_dir = Path(tempfile.mkdtemp())
    run_dir.chmod(0o755)
    own = {"UPSTREAM": f"127.0.0.1:{upstream_port}", "HTTP_LISTEN": f"127.0.0.1:{port}"}
    process = start_script(folder, **own, RUN_DIR=str(run_dir), **settings)

    def listens() -> bool:
        assert process.poll() is None, process.communicate()[1]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        _, said = process.communicate(timeout=30)
        (folder / "error.log").write_text(said)
        shutil.rmtree(run_dir)


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does with each connection what it is told to, one after the other: its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def read_head(connection: socket.socket) -> bytes:
    """A request up to the end of its headers, and what of its body came along."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        assert more, received
        received += more
    return received
