"""The network that ships with the package: what a machine without network is given."""

from __future__ import annotations

import hashlib
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import load_settings
from engine.backbones import weights as module
from engine.backbones.untrained import untrained_state
from engine.backbones.weights import Published, load_weights
from engine.describer import Describer, DescriberOptions
from engine.made import instance_view
from engine.training.mining import validation_map
from tests.drawing import photo

INSTANCES, VIEWS = 16, 3


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is cached, and nobody answers."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}/vgg16.pth"
        monkeypatch.setitem(module.PUBLISHED, "vgg16", Published(nobody, "0123abcd"))
        yield


def started(folder: Path, **chosen: Any) -> TestClient:
    return TestClient(create_app(load_settings(data_dir=folder, max_side=128, **chosen)))


def test_every_file_of_the_packages_ships_with_them() -> None:
    root = Path(__file__).parents[1]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    for name in ("app", "engine", "benchmarks"):
        folder = root / name
        found = {path for path in folder.rglob("*") if path.is_file()}
        files = {p for p in found if p.suffix != ".py" and p.parent.name != "__pycache__"}
        shipped = (folder.glob(pattern) for pattern in patterns["package-data"].get(name, []))
        assert files <= {path for paths in shipped for path in paths}


def test_without_network_the_service_starts_with_it_and_says_so(
    tmp_path: Path, no_network: None, caplog: pytest.LogCaptureFixture
) -> None:
    with started(tmp_path / "index") as client:
        version = client.get("/version").json()
        assert version["backbone"] == "vgg_lite"
        weights = version["weights"]
        assert (weights["name"], weights["trained"], weights["fallback"]) == ("bundled", True, True)
        assert "vgg16 could not be had (cannot download" in weights["notice"]
        warnings = [entry for entry in caplog.records if entry.levelname == "WARNING"]
        assert weights["notice"] in [entry.getMessage() for entry in warnings]
        assert client.put("/images/a", files={"image": photo(1)}).status_code == 201


def test_an_index_keeps_it_when_there_is_network_again(
    tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(tmp_path / "index") as client:
        client.put("/images/a", files={"image": photo(1)})
        fingerprint = client.get("/admin/index").json()["fingerprint"]
    # A download would now be tried at an address that is no address.
    monkeypatch.setitem(module.PUBLISHED, "vgg16", Published("nowhere", "0123abcd"))
    with started(tmp_path / "index") as client:
        assert client.get("/admin/index").json()["fingerprint"] == fingerprint
        version = client.get("/version").json()
        assert version["backbone"] == "vgg_lite"
        assert not version["weights"]["fallback"]  # it is the index's own


def test_weights_that_are_copied_to_their_place_are_used_before_the_first_photo(
    tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the notice says, which names that place."""
    cache = tmp_path / "cache"
    copied = cache / "vgg16-of-a-test.pth"
    cache.mkdir()
    torch.save(untrained_state("vgg16"), tmp_path / "file")
    digest = hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    url = module.PUBLISHED["vgg16"].url.rsplit("/", 1)[0] + "/" + copied.name
    monkeypatch.setitem(module.PUBLISHED, "vgg16", Published(url, digest[:8]))

    def weights_now() -> tuple[str, str]:
        with started(tmp_path / "index", cache_dir=cache) as client:
            version = client.get("/version").json()
            if version["weights"]["fallback"]:
                assert str(copied) in version["weights"]["notice"]
            return version["backbone"], version["weights"]["name"]

    assert weights_now() == ("vgg_lite", "bundled")
    copied.write_bytes(b"not all of it")
    assert weights_now() == ("vgg_lite", "bundled")
    (tmp_path / "file").rename(copied)
    assert weights_now() == ("vgg16", "imagenet")
    with started(tmp_path / "index", cache_dir=cache) as client:
        client.put("/images/a", files={"image": photo(1)})
    copied.unlink()
    with started(tmp_path / "index", cache_dir=cache) as client:
        assert client.get("/readyz").status_code == 503, "an index keeps the weights it has"


def test_it_knows_drawn_things_again_from_another_side() -> None:
    views = [
        instance_view(5, number, view, size=(160, 160), difficulty=0.3).pixels
        for number in range(0, 5 * INSTANCES, 5)  # of different families
        for view in range(VIEWS)
    ]
    clusters = np.repeat(np.arange(INSTANCES), VIEWS)
    found = {}
    for backbone, weights in (("vgg_lite", "bundled"), ("squeezenet1_1", "untrained")):
        options = DescriberOptions(backbone=backbone, precision="float32", max_side=160)
        vectors = Describer(options, load_weights(backbone, weights)).describe(views)
        found[weights] = _map(vectors, clusters)
    assert found["bundled"] > 0.75
    assert found["bundled"] > found["untrained"] + 0.15


def _map(vectors: Any, clusters: Any) -> float:
    import torch

    return validation_map(torch.from_numpy(vectors), clusters, np.arange(len(clusters)))
