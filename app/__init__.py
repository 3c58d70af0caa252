"""The HTTP side and the command line. Imports `engine`; never torch or faiss itself."""

import os

__version__ = "0.1.0"

# Threads of numpy's OpenBLAS wait for the next product by computing, 50 ms long: a core that the
# model lacks. 2**18 cycles, 0.1 ms, are enough where products follow each other. Read when numpy is
# loaded.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "18")
