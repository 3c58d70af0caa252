"""What a start of the service costs."""

from __future__ import annotations

import gc
import json
import subprocess
import sys

import pytest

from app import collector

LOADED = "import json, sys; import app.cli, app.main; print(json.dumps(sorted(sys.modules)))"


def test_the_service_imports_nothing_that_only_other_commands_need() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, timeout=120
    )
    loaded = set(json.loads(done.stdout))
    assert {"torch", "faiss", "fastapi"} <= loaded
    others = {"benchmarks", "jinja2", "kornia", "matplotlib", "pytorch_metric_learning", "scipy"}
    others |= {
        f"engine.{name}" for name in ("evaluation", "explaining", "made", "pictures", "training")
    }
    assert loaded & others == set()


def test_what_is_made_at_the_start_is_never_looked_through_again() -> None:
    assert gc.isenabled()
    before = gc.get_freeze_count()
    try:
        with collector.left_alone():
            assert not gc.isenabled()
            kept = [[number] for number in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(kept)
        with pytest.raises(KeyError), collector.left_alone():
            raise KeyError
        assert gc.isenabled()
    finally:
        gc.unfreeze()
