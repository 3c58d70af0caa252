"""How often an address has presented keys that nobody has."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Window:
    ends: float
    failures: int = 0


class Attempts:
    """Counts failures by address, in a table that cannot grow.

    It is not what keeps keys safe: 256 random bits cannot be guessed at any rate. It tells a client
    that goes wrong in a loop to slow down, and keeps it from filling the log. Keys that are right
    always pass, so nobody can lock out others who come from the same address.
    """

    def __init__(
        self,
        *,
        limit: int = 20,
        window_s: float = 60.0,
        addresses: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._window_s = window_s
        self._addresses = addresses
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def failed(self, address: str) -> tuple[int, int]:
        """Notes a failure: how many in this window are over the limit, and seconds to its end."""
        now = self._clock()
        network = _network(address)
        window = self._windows.get(network)
        if window is None or window.ends <= now:
            window = self._windows[network] = _Window(now + self._window_s)
        self._windows.move_to_end(network)
        while len(self._windows) > self._addresses:
            self._windows.popitem(last=False)
        window.failures += 1
        return max(0, window.failures - self._limit), max(1, math.ceil(window.ends - now))

    def __len__(self) -> int:
        return len(self._windows)


def _network(address: str) -> str:
    """One IPv6 client has a /64 of addresses to come from."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
