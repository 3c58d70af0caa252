"""One request to one target: a body within bounds, or where it redirects to."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass

import httpcore

from app import __version__
from app.fetching.addresses import Address
from app.fetching.budget import Budget
from app.fetching.failures import Failed
from app.fetching.parsing import Target
from app.fetching.pinned import PinnedBackend
from engine.errors import ImageTooLarge

REDIRECTS = frozenset({301, 302, 303, 307, 308})
BUSY = frozenset({429, 503})
LATER = BUSY | {500, 502, 504}
"""Answers that may be others in a while."""


@dataclass(frozen=True)
class Redirect:
    location: str


def get(
    target: Target,
    addresses: Sequence[Address],
    budget: Budget,
    context: ssl.SSLContext,
    max_bytes: int,
) -> bytes | Redirect:
    """GET, without cookies, passwords, proxies or anything else of the environment.

    Raises: Failed, InterruptedError, ImageTooLarge beyond `max_bytes`.
    """
    # One connection for one request: the next one has to be checked again anyway.
    pool = httpcore.ConnectionPool(
        ssl_context=context,
        max_connections=1,
        network_backend=PinnedBackend(addresses, budget),
    )
    url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    headers = [
        ("Host", target.place),
        ("User-Agent", f"cooc-image-search/{__version__}"),
        ("Accept", "image/*,*/*;q=0.1"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ]
    try:
        with pool, pool.stream("GET", url, headers=headers) as response:
            return _read(response, max_bytes)
    except InterruptedError:
        raise
    except httpcore.TimeoutException as error:
        raise Failed("did not answer in time", transient=True) from error
    except httpcore.ProtocolError as error:
        raise Failed("broke off, or did not answer in HTTP", transient=True) from error
    except (httpcore.NetworkError, OSError) as error:
        raise Failed("broke off the connection", transient=True) from error


def _read(response: httpcore.Response, max_bytes: int) -> bytes | Redirect:
    headers = {name.lower(): value for name, value in response.headers}
    if response.status in REDIRECTS:
        if b"location" not in headers:
            raise Failed(f"answered with status {response.status} but not where to go")
        return Redirect(headers[b"location"].decode("utf-8", "surrogateescape"))
    if response.status != 200:
        raise Failed(
            f"answered with status {response.status}",
            transient=response.status in LATER,
            answered=True,
            busy=response.status in BUSY,
            wait_s=_seconds(headers.get(b"retry-after", b"")),
        )
    # Not asked for, and a few bytes of it may be gigabytes.
    if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
        raise Failed("sent its image compressed, which it was asked not to")
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and len(announced) < 20 and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    for part in response.iter_stream():
        body += part
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


def _too_large(max_bytes: int) -> ImageTooLarge:
    return ImageTooLarge(f"sent more than {max_bytes:,} bytes, the most that one image may have")


def _seconds(text: bytes) -> float | None:
    """`Retry-After` in seconds; the form with a date is left to our own patience."""
    return float(text) if text.isdigit() and len(text) < 10 else None
