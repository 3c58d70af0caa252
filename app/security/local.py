"""Whether a request to an open service comes from this machine, and from nowhere else."""

from __future__ import annotations

import ipaddress
import re

from starlette.types import Scope

FORWARDED = (
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-real-ip",
    b"via",
)
"""What proxies add."""


_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:\d+)?")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. Names other than localhost count as public."""
    name = host.lower().strip("[]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and ipaddress.ip_address(name).is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def why_not_local(scope: Scope) -> str | None:
    """Why a request may come from elsewhere; None if it is from this machine.

    A web site can make its own name lead to 127.0.0.1 (DNS rebinding); the browser then lets it
    read the answers, but says in `Host` whom it believes to talk to.
    """
    headers = dict(scope["headers"])
    proxied = next((name.decode() for name in FORWARDED if name in headers), None)
    if proxied is not None:
        return f"the header {proxied} says that it came through a proxy"
    if scope.get("http_version") == "1.0":
        return "it came by HTTP/1.0, as nginx passes requests on"
    received_at = str((scope.get("server") or ("", None))[0])
    if _is_address(received_at) and not is_loopback(received_at):
        return f"the address is {received_at}, which others reach"
    host = headers.get(b"host", b"").decode("latin-1")
    parts = _HOST.fullmatch(host)
    name = parts["name"] if parts else ""
    # Clients within this process name the server as they like.
    if is_loopback(name) or (name and name == received_at and not _is_address(received_at)):
        return None
    return f"the Host is {host[:100]!r}, which is another"
