"""The tests. Their computations use one core each, however they are started: what depends on how
images share the cores says so itself."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
