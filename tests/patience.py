"""For what happens soon, and not at once."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 60
"""How long a slow machine may take over what takes milliseconds."""


def until(happened: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s"
        time.sleep(0.01)
