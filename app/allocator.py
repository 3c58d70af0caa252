"""Memory settings of the process, for the large activations of a trunk."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_large_blocks() -> bool:
    """Let glibc keep freed memory instead of returning each activation to the kernel.

    A forward pass allocates and frees hundreds of megabytes; mapped anew each time, their page
    faults cost up to half of the time (SqueezeNet, 8 images: 30 ms an image instead of 16).
    The same as MALLOC_MMAP_MAX_=0 and friends in the environment. Returns whether it was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another libc
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20))
    done = [mallopt(option, value) == 1 for option, value in settings]
    return all(done)
