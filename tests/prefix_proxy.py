"""A proxy that serves a service under a path prefix, which it strips; streams pass through."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

NOT_PASSED = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


def _handler(client: httpx.Client, prefix: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Closes each connection: then an answer needs no length."""

        def pass_on(self) -> None:
            if not self.path.startswith(prefix + "/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in NOT_PASSED
            }
            headers["X-Forwarded-For"] = self.client_address[0]
            path = self.path.removeprefix(prefix)
            with client.stream(self.command, path, headers=headers, content=body) as answer:
                self.send_response(answer.status_code)
                for name, value in answer.headers.multi_items():
                    if name.lower() not in NOT_PASSED:
                        self.send_header(name, value)
                self.end_headers()
                try:
                    for chunk in answer.iter_raw():
                        self.wfile.write(chunk)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the browser has seen enough

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def prefixed(service: str, prefix: str) -> Iterator[str]:
    """Address of `service` behind a proxy, under `prefix`, such as `/photos`."""
    with httpx.Client(base_url=service, timeout=60) as client:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(client, prefix))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{prefix}/"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
