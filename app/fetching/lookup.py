"""From a target to the addresses to connect to: all of them checked."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address

from app.fetching.addresses import Address
from app.fetching.failures import Refused
from app.fetching.parsing import Target
from app.fetching.policy import Policy

Lookup = Callable[[str, int], list[str]]
"""Addresses of a host and port. Raises OSError where there are none."""

MAX_ADDRESSES = 4
"""How many of a host's are tried."""


def system_lookup(host: str, port: int) -> list[str]:
    """What the system says: its hosts file, its name servers."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def checked_addresses(target: Target, policy: Policy, lookup: Lookup) -> list[Address]:
    """Where to connect to. Raises Refused unless every address of the host may be."""
    if target.address is not None:
        found: list[Address] = [target.address]
    else:
        try:
            found = [ip_address(text) for text in lookup(target.host, target.port)]
        except (OSError, ValueError):
            found = []
    if not found or not all(policy.permits_address(target, address) for address in found):
        # One answer for both: else it would tell which names a private network has.
        raise Refused(
            "leads to a host that is unknown, or whose addresses are not all public",
            f"the addresses of {target.host} are {', '.join(map(str, found)) or 'unknown'}",
        )
    return found[:MAX_ADDRESSES]
