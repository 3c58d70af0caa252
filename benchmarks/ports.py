"""Ports for services that are started only to be measured or tested."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """A port that nobody listens at, and that no connection gets by itself in the meantime."""
    while True:
        # Below those that connections get on Linux; chosen apart from what others seed.
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
