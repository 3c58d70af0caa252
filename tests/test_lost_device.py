"""A device that fails for good: the service says so, ends, and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import torch
from fastapi.testclient import TestClient
from torch import Tensor

from app.jobs import workflows
from app.main import create_app
from app.settings import Settings
from engine.backbones.weights import load_weights
from engine.describer import Describer
from engine.errors import DeviceLost
from engine.passes.devices import still_computes
from tests.drawing import photo
from tests.patience import until
from tests.server import serving
from tests.test_api import SMALL, add, put, until_ended
from tests.test_metrics import labels, samples
from tests.test_out_of_memory import pictures

SAID = "CUDA error: an illegal memory access was encountered"
NOWHERE = torch.device("meta")
"""Computes nothing, as a GPU after such an error."""

BREAKABLE = """
import pathlib, sys, torch
from engine.describer import Describer

flag, maps = pathlib.Path(sys.argv.pop(1)), Describer.maps

def breaking(self, pixels):
    if flag.exists():
        self.device = torch.device("meta")
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    yield from maps(self, pixels)

Describer.maps = breaking

from app.cli import app
app()
"""


def lose(describer: Describer, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(pixels: Tensor) -> Iterator[list[Tensor]]:
        raise RuntimeError(f"{SAID}\nCUDA kernel errors might be reported later")

    monkeypatch.setattr(describer, "device", NOWHERE)
    monkeypatch.setattr(describer, "maps", failing)


def test_what_computes_is_told_from_what_does_not(device: torch.device) -> None:
    assert still_computes(device)
    assert not still_computes(NOWHERE)


def test_an_error_of_the_images_loses_no_device(
    describer: Describer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Describer(describer.options, load_weights("squeezenet1_1", "untrained"))
    with monkeypatch.context() as patch:
        lose(made, patch)
        patch.setattr(made, "device", describer.device)
        with pytest.raises(RuntimeError, match="illegal"):
            made.describe(pictures(2))
    assert made.lost is None
    lose(made, monkeypatch)
    with pytest.raises(DeviceLost, match=rf"^meta computes no more .*\({SAID}\); start it anew"):
        made.describe(pictures(2))
    assert made.lost is not None


def test_a_service_without_its_device_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(Settings(data_dir=tmp_path, **SMALL))) as client:
        put(client, "a.jpg", photo(1))
        assert client.get("/readyz").status_code == 200
        state = client.app.state.cooc  # type: ignore[attr-defined]
        assert state.lost is None
        lose(state.service.searcher.describers[0], monkeypatch)
        refused = client.post("/search", files={"image": photo(2)})
        assert (refused.status_code, refused.json()["code"]) == (503, "device_lost")
        assert refused.headers["Retry-After"] == "10"
        assert SAID in str(state.lost)
        until(lambda: client.get("/readyz").status_code == 503)
        assert client.get("/readyz").json()["code"] == "device_lost"
        assert samples(client)["cooc_ready"][labels()] == 0
        # What needs no model goes on.
        assert client.get("/images/a.jpg").status_code == 200


def test_a_build_waits_for_a_process_with_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows, "RETRY_S", 0.1)
    with TestClient(create_app(Settings(data_dir=tmp_path, **SMALL))) as client:
        add(client, *((f"{seed}.jpg", photo(seed)) for seed in range(60)))
        describer = client.app.state.cooc.service.searcher.describer  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:
            lose(describer, patch)
            location = client.post("/admin/index/build").headers["Location"]
            until(lambda: client.get(location).json()["waiting"] is not None)
            assert SAID in client.get(location).json()["waiting"]
        assert until_ended(client, location)["state"] == "succeeded"
        assert client.get("/admin/index").json()["generation"] > 0


def test_the_service_ends_and_the_next_one_goes_on_with_its_jobs(tmp_path: Path) -> None:
    flag, script = tmp_path / "broken", tmp_path / "breakable.py"
    script.write_text(BREAKABLE)
    with serving(tmp_path / "index", (str(script), str(flag))) as server:
        files = [("files", (f"{seed:03d}.jpg", photo(seed))) for seed in range(120)]
        location = server.http.post("/index/add", files=files).headers["Location"]
        until(lambda: server.http.get(location).json()["progress"]["processed"])
        flag.touch()
        # If the job was faster, this meets it; if the service has ended, nothing does any more.
        with suppress(httpx.TransportError):
            server.http.post("/search", files={"image": photo(500)})
        assert server.ended() == 1
        assert (
            f"the service ends: meta computes no more for this process ({SAID})"
            in (tmp_path / "server.log").read_text()
        )
        flag.unlink()
        server.start()
        job = server.finish(location)
    assert job["state"] == "succeeded"
    assert isinstance(job["progress"], dict)
    assert (job["progress"]["added"], job["progress"]["failed"]) == (120, 0)
