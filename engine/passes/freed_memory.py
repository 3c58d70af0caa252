"""Memory that was freed, back to the system."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> bool:
    """Let glibc return what is free, however it was told to keep it. Returns whether it could.

    It takes milliseconds for each 100 MB, in which other threads wait for memory: worth it after
    what is rare and large.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another libc
        return False
    return bool(trim(0))
