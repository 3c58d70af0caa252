"""A disk without room: a clear answer, nothing lost, and work goes on once there is room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from engine.errors import StorageReadOnly
from tests.disks import fill, make_read_only, small_disk
from tests.drawing import photo

SMALL: dict[str, Any] = {"backbone": "squeezenet1_1", "weights": "untrained", "max_side": 128}


def test_a_full_disk_is_507_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_kb=16_384) as disk:
        settings = Settings(data_dir=disk / "index", **SMALL)
        with TestClient(create_app(settings), raise_server_exceptions=False) as client:
            assert put(client, "kept", photo(0)) == 201
            ballast = fill(disk)
            statuses = [put(client, str(number), photo(number + 1)) for number in range(50)]
            assert set(statuses) <= {201, 507}
            assert statuses[-1] == 507
            answer = client.put("/images/x", files={"image": photo(100)})
            assert "free space" in answer.json()["detail"]
            assert client.post("/index/add", files={"files": photo(101)}).status_code == 507
            found = client.post("/search", files={"image": photo(0)}).json()["results"]
            assert found[0]["id"] == "kept"
            ballast.unlink()
            assert put(client, "after", photo(102)) == 201
        with TestClient(create_app(settings)) as client:
            for image_id in ("kept", "after"):
                assert client.get(f"/images/{image_id}").status_code == 200


def test_a_read_only_folder_is_named_at_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_kb=16_384) as disk:
        settings = Settings(data_dir=disk / "index", **SMALL)
        with TestClient(create_app(settings)) as client:
            assert put(client, "kept", photo(0)) == 201
        make_read_only(disk)
        with (
            pytest.raises(StorageReadOnly, match=f"{disk}/index cannot be written; mount it"),
            TestClient(create_app(settings)),
        ):
            pass


def put(client: TestClient, image_id: str, data: bytes) -> int:
    return client.put(f"/images/{image_id}", files={"image": data}).status_code
