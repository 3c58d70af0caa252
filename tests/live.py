"""A real server on a real port, within this process: its inside can be looked at and held up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from app.main import create_app, start
from app.serving.server import LAST_ANSWERS_S, Server
from app.settings import Settings
from engine.searcher import Searcher
from engine.types import Vectors
from tests.drawing import photo
from tests.patience import PATIENCE_S, until
from tests.proxy import free_port

SMALL: dict[str, Any] = {"backbone": "squeezenet1_1", "weights": "untrained", "max_side": 128}
WAIT_S = PATIENCE_S


class Gate:
    """Holds up the model while it is closed, and remembers what it was given. The first images
    pass all the same, as many as are to come `before` it."""

    def __init__(self, searcher: Searcher, *, before: int = 0) -> None:
        self._before = before
        self.open = threading.Event()
        self.open.set()
        self.inside = threading.Event()
        self.seen: list[bytes] = []
        self._describe = searcher.describer.describe
        searcher.describer.describe = self._held_up  # type: ignore[method-assign]

    def _held_up(self, images: Sequence[np.ndarray]) -> Vectors:
        self.seen += [image.tobytes() for image in images]
        self.inside.set()
        if len(self.seen) > self._before:
            assert self.open.wait(WAIT_S)
        return self._describe(images)


class Live:
    """The server, its searcher, and a gate before its model."""

    def __init__(self, settings: Settings) -> None:
        self.app = create_app(settings)
        start(self.app.state.cooc)
        self.url = f"http://127.0.0.1:{settings.port}"
        self.port = settings.port
        self.admission = self.app.state.admission
        config = uvicorn.Config(
            self.app,
            port=settings.port,
            log_config=None,
            timeout_graceful_shutdown=LAST_ANSWERS_S,
        )
        self.server = Server(config, self.admission, stop_s=settings.stop_s)
        self.searcher: Searcher = self.app.state.cooc.service.searcher
        self.gate = Gate(self.searcher)
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        until(lambda: self.server.started)

    def search(self, seed: int, **options: Any) -> httpx.Response:
        return self.http.post("/search", files={"image": photo(seed)}, **options)

    def send(self, data: bytes) -> socket.socket:
        """Bytes on a connection of their own."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)
        connection.sendall(data)
        return connection

    def stop(self) -> None:
        self.server.should_exit = True

    def ended(self) -> bool:
        return not self._thread.is_alive()

    def close(self) -> None:
        self.gate.open.set()
        self.stop()
        self._thread.join(2 * WAIT_S)
        assert self.ended()
        self.http.close()


def search_request(seed: int, headers: str = "", *, path: str = "/search") -> bytes:
    """A search as it goes over the wire."""
    boundary = b"--cut"
    body = b"\r\n".join(
        [
            boundary,
            b'Content-Disposition: form-data; name="image"; filename="a.jpg"',
            b"Content-Type: image/jpeg",
            b"",
            photo(seed),
            boundary + b"--",
            b"",
        ]
    )
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary=cut\r\n{headers}\r\n"
    )
    return head.encode() + body


def answer_to(connection: socket.socket) -> tuple[int, bytes]:
    """Status and the whole answer; the connection is then closed."""
    import http.client

    with closing(connection):
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.read()


@contextmanager
def live(folder: Path, **settings: Any) -> Iterator[Live]:
    running = Live(Settings(data_dir=folder, port=free_port(), **{**SMALL, **settings}))
    try:
        yield running
    finally:
        running.close()
