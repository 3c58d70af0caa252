"""Connections that go to the address that was checked, whatever names mean by now."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Sequence
from typing import Any

import httpcore

from app.fetching.addresses import Address
from app.fetching.budget import Budget
from app.fetching.failures import Failed

CONNECT_S, READ_S = 5.0, 10.0
"""Seconds for one connection, and without a byte."""
SLICE_S = 0.5
"""How soon a fetch notices that it was stopped."""


class PinnedBackend(httpcore.NetworkBackend):
    """Connects to given addresses. The name stays what the certificate is checked against."""

    def __init__(self, addresses: Sequence[Address], budget: Budget) -> None:
        self._addresses = addresses
        self._budget = budget
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        for address in self._addresses:
            seconds = min(CONNECT_S, self._budget.seconds())
            try:
                stream = self._sockets.connect_tcp(
                    str(address), port, timeout=seconds, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
            return BoundedStream(stream, self._budget)
        raise Failed("could not be connected to", transient=True)


class BoundedStream(httpcore.NetworkStream):
    """A connection whose every read and write takes of the budget."""

    def __init__(self, stream: httpcore.NetworkStream, budget: Budget) -> None:
        self._stream = stream
        self._budget = budget

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        silent_from = time.monotonic()
        while time.monotonic() - silent_from < READ_S:
            seconds = min(SLICE_S, self._budget.seconds())
            try:
                data = self._stream.read(max_bytes, timeout=seconds)
            except httpcore.ReadTimeout:
                continue
            self._budget.spend(len(data))
            return data
        raise Failed(f"sent nothing for {READ_S:g} s", transient=True)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout=min(READ_S, self._budget.seconds()))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        seconds = min(CONNECT_S, self._budget.seconds())
        try:
            stream = self._stream.start_tls(ssl_context, server_hostname, timeout=seconds)
        except httpcore.ConnectError as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise Failed("has a certificate that is not valid for its name") from error
            raise Failed("could not be spoken to by TLS", transient=True) from error
        return BoundedStream(stream, self._budget)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
