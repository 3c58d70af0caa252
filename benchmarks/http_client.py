"""Clients of a service on one event loop, made to cost little beside it: requests are ready-made
bytes, connections stay open, and of an answer only status and length are read."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

MAX_CONNECTIONS = 2000
"""Of an open loop; a client that finds none free gives up at once, which counts as a failure."""
FAILED = 0
"""In the place of a status: refused, reset or timed out connections."""


@dataclass(frozen=True)
class Asked:
    """One request: when it was due (seconds of the run), what became of it, and after how long."""

    at_s: float
    ms: float
    status: int


def search_request(image: bytes, host: str, path: str = "/search") -> bytes:
    """A search with an uploaded image, as it goes over the wire."""
    cut = "a-boundary-of-the-benchmark"
    body = (
        f'--{cut}\r\nContent-Disposition: form-data; name="image"; filename="query.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    ).encode()
    body += image + f"\r\n--{cut}--\r\n".encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={cut}\r\n\r\n"
    )
    return head.encode() + body


class _Connection:
    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes, timeout_s: float) -> int:
        """The status of the answer, or FAILED."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask(request)
        except (OSError, EOFError, ValueError, asyncio.IncompleteReadError):
            await self.close()
            return FAILED

    async def _ask(self, request: bytes) -> int:
        if self._streams is not None and self._streams[0].at_eof():
            await self.close()  # the service has closed it as it was idle
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        length = next(
            int(line.split(":", 1)[1])
            for line in head.split("\r\n")
            if line.startswith("content-length:")
        )
        await reader.readexactly(length)
        if "\r\nconnection: close" in head:
            await self.close()
        return status

    async def close(self) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def closed_loop(
    port: int, requests: Sequence[bytes], *, clients: int, seconds: float, timeout_s: float = 120.0
) -> list[Asked]:
    """`clients` that each ask again as soon as they were answered, as long as there is time."""
    return asyncio.run(_closed_loop(port, requests, clients, seconds, timeout_s))


async def _closed_loop(
    port: int, requests: Sequence[bytes], clients: int, seconds: float, timeout_s: float
) -> list[Asked]:
    asked: list[Asked] = []
    turn = itertools.cycle(requests)
    began = time.perf_counter()

    async def client() -> None:
        connection = _Connection("127.0.0.1", port)
        while (started := time.perf_counter()) - began < seconds:
            status = await connection.ask(next(turn), timeout_s)
            asked.append(Asked(started - began, 1000 * (time.perf_counter() - started), status))
        await connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return asked


def open_loop(
    port: int, requests: Sequence[bytes], *, per_s: float, seconds: float, timeout_s: float
) -> list[Asked]:
    """So many requests a second, whether earlier ones were answered or not."""
    return asyncio.run(_open_loop(port, requests, per_s, seconds, timeout_s))


async def _open_loop(
    port: int, requests: Sequence[bytes], per_s: float, seconds: float, timeout_s: float
) -> list[Asked]:
    asked: list[Asked] = []
    free: list[_Connection] = []
    made: list[_Connection] = []
    tasks: set[asyncio.Task[None]] = set()
    began = time.perf_counter()

    async def ask(due_s: float, request: bytes) -> None:
        status = FAILED
        if free or len(made) < MAX_CONNECTIONS:
            if free:
                connection = free.pop()
            else:
                connection = _Connection("127.0.0.1", port)
                made.append(connection)
            status = await connection.ask(request, timeout_s)
            free.append(connection)
        # From when it was due: a client that comes late must not make a service look quick.
        asked.append(Asked(due_s, 1000 * (time.perf_counter() - began - due_s), status))

    for due_s, request in zip(_times(per_s, seconds), itertools.cycle(requests), strict=False):
        wait_s = due_s - (time.perf_counter() - began)
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        task = asyncio.create_task(ask(due_s, request))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    while tasks:
        await asyncio.wait(tasks)
    for connection in made:
        await connection.close()
    return asked


def _times(per_s: float, seconds: float) -> Iterator[float]:
    for number in itertools.count():
        if number / per_s >= seconds:
            return
        yield number / per_s
