"""A disk without room: a clear answer, nothing lost, and work goes on once there is room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.drawing import photo

SMALL: dict[str, Any] = {"backbone": "squeezenet1_1", "weights": "untrained", "max_side": 128}


def test_a_full_disk_is_507_and_loses_nothing(tiny_disk: Path) -> None:
    settings = Settings(data_dir=tiny_disk / "index", **SMALL)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        assert client.put("/images/kept", files={"image": photo(0)}).status_code == 201
        filler = tiny_disk / "filler"
        with filler.open("wb", buffering=0) as out:
            for block in (1 << 16, 1 << 10):
                try:
                    while True:
                        out.write(b"\0" * block)
                except OSError:
                    continue
        status = 201
        for number in range(200):
            answer = client.put(f"/images/{number}", files={"image": photo(number + 1)})
            status = answer.status_code
            if status != 201:
                break
        assert status == 507, answer.text
        assert "free space" in answer.json()["detail"]
        bulk = client.post("/index/add", files={"files": photo(999)})
        assert bulk.status_code == 507
        found = client.post("/search", files={"image": photo(0)}).json()["results"]
        assert found[0]["id"] == "kept"
        filler.unlink()
        assert client.put("/images/after", files={"image": photo(500)}).status_code == 201
    with TestClient(create_app(settings)) as client:
        assert client.get("/images/kept").status_code == 200
        assert client.get("/images/after").status_code == 200
