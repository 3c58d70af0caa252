"""Web servers on loopback that answer as a test wants them to, and remember who asked for what."""

from __future__ import annotations

import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


class Web:
    """`answers` by path; `asked` has the path and the headers of each request."""

    def __init__(self, server: ThreadingHTTPServer, secure: bool) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.host, self.port = str(server.server_address[0]), int(server.server_address[1])
        self.scheme = "https" if secure else "http"
        self.stopped = threading.Event()

    def url(self, path: str = "/", host: str | None = None) -> str:
        return f"{self.scheme}://{host or self.host}:{self.port}{path}"

    def counts(self) -> Counter[str]:
        return Counter(path for path, _ in self.asked)


@contextmanager
def web(
    host: str = "127.0.0.1", port: int = 0, context: ssl.SSLContext | None = None
) -> Iterator[Web]:
    """A server, until the end of the context."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked.append((self.path, dict(self.headers.items())))
            self.close_connection = True
            # Clients leave whenever they have seen enough.
            with suppress(OSError):
                here.answers.get(self.path, status(404))(self)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass  # a handshake that the client gave up

        def finish_request(self, request: Any, client_address: Any) -> None:
            # In the thread of the request: a handshake must not hold up the others.
            if context is None:
                super().finish_request(request, client_address)
                return
            with context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)

    with Server((host, port), Handler) as server:
        here = Web(server, context is not None)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield here
        finally:
            here.stopped.set()
            server.shutdown()
            thread.join()


def body(data: bytes, **headers: str) -> Answer:
    """200 with `data`; `content_type="..."` sets a header."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        named = {name.replace("_", "-").title(): value for name, value in headers.items()}
        for name, value in {"Content-Length": str(len(data)), **named}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)

    return answer


def status(code: int, **headers: str) -> Answer:
    """An empty answer."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-").title(), value)
        request.end_headers()

    return answer


def redirect(location: str, code: int = 302) -> Answer:
    return status(code, location=location, set_cookie="seen=1")


def raw(data: bytes) -> Answer:
    """Exactly these bytes."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(data)

    return answer


def endless(head: bytes, part: bytes, stopped: threading.Event, every_s: float = 0.0) -> Answer:
    """`head`, then `part` again and again until the client has left."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(head)
        while not stopped.wait(every_s):
            request.wfile.write(part)

    return answer
