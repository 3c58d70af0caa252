"""The whole service in its own process, driven by a real client."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from tests.drawing import photo
from tests.patience import until
from tests.server import Server, serving


def add(server: Server, photos: dict[str, bytes]) -> dict[str, Any]:
    files = [("files", (name, data)) for name, data in photos.items()]
    answer = server.http.post("/index/add", files=files)
    assert answer.status_code == 202
    return server.finish(answer.headers["Location"])


def assert_all_found(server: Server, photos: dict[str, bytes]) -> None:
    for name, data in photos.items():
        answer = server.http.post("/search", files={"image": data}, data={"limit": 1})
        first = answer.json()["results"][0]
        assert (first["id"], first["match_type"], first["score"]) == (name, "exact", 1.0)


def test_nothing_is_lost_by_building_reloading_killing_and_restarting(tmp_path: Path) -> None:
    photos = {f"set/{seed:03d}.jpg": photo(seed) for seed in range(200)}
    with serving(tmp_path / "index") as server:
        job = add(server, photos)
        assert job["progress"]["added"] == 200
        # Else the build that is asked for below may be this one.
        server.finish(f"/jobs/{job['result']['build']}")
        assert_all_found(server, photos)

        gone = list(photos)[::10]
        for name in gone:
            assert server.http.delete(f"/images/{name}").status_code == 204
            data = photos.pop(name)
            answer = server.http.post("/search", files={"image": data}).json()
            assert name not in [result["id"] for result in answer["results"]]
        assert_all_found(server, photos)

        built = server.finish(server.http.post("/admin/index/build").headers["Location"])
        assert built["state"] == "succeeded"
        assert server.http.post("/admin/index/reload").status_code == 200
        assert_all_found(server, photos)

        server.kill()
        server.start()
        index = server.http.get("/admin/index").json()
        # One generation after the bulk add, one on request; loaded, not built again.
        assert (index["generation"], index["count"]) == (2, 180)
        assert_all_found(server, photos)
        for name in gone:
            assert server.http.get(f"/images/{name}").status_code == 404


def test_a_bulk_add_goes_on_after_a_kill(tmp_path: Path) -> None:
    photos = {f"{seed:03d}.jpg": photo(seed) for seed in range(300)}
    with serving(tmp_path / "index") as server:
        files = [("files", (name, data)) for name, data in photos.items()]
        job_url = server.http.post("/index/add", files=files).headers["Location"]
        until(lambda: server.http.get(job_url).json()["progress"]["processed"])
        server.kill()
        server.start()
        job = server.finish(job_url)
        assert job["state"] == "succeeded"
        assert job["progress"] == {
            "total": 300,
            "processed": 300,
            "added": 300,
            "replaced": 0,
            "skipped": 0,
            "failed": 0,
        }
        assert_all_found(server, photos)
        assert not list((tmp_path / "index" / "spool").iterdir())


def test_a_stop_in_the_middle_of_a_job_is_quick_and_loses_nothing(tmp_path: Path) -> None:
    photos = {f"{seed:03d}.jpg": photo(seed) for seed in range(300)}
    with serving(tmp_path / "index") as server:
        files = [("files", (name, data)) for name, data in photos.items()]
        job_url = server.http.post("/index/add", files=files).headers["Location"]
        until(lambda: server.http.get(job_url).json()["progress"]["processed"])
        assert server.stop() in (0, -signal.SIGTERM)  # it ends by the signal, after tidying up
        assert list((tmp_path / "index" / "spool").iterdir()), "it did not wait for the job"
        server.start()
        assert server.finish(job_url)["state"] == "succeeded"
        assert server.http.get("/admin/index").json()["count"] == 300


def test_clients_that_search_add_and_delete_at_once_get_consistent_answers(tmp_path: Path) -> None:
    mixed_load(tmp_path / "index", seconds=6)


def mixed_load(folder: Path, seconds: float) -> dict[str, int]:
    """Four clients search while two add and delete; every answer is checked."""
    stable = {f"stable/{seed}": photo(seed) for seed in range(40)}
    done = {"search": 0, "put": 0, "delete": 0}
    failures: list[str] = []
    deadline = 0.0  # set when all is added: adding alone may take that long

    def search(url: str, seed: int) -> None:
        draw = random.Random(seed)
        with httpx.Client(base_url=url, timeout=60) as http:
            while time.monotonic() < deadline and not failures:
                name = draw.choice(list(stable))
                answer = http.post("/search", files={"image": stable[name]}, data={"limit": 50})
                ids = [r["id"] for r in answer.json()["results"]] if answer.is_success else []
                if not ids or ids[0] != name or len(set(ids)) != len(ids):
                    failures.append(f"search of {name}: {answer.status_code} {answer.text[:300]}")
                if len(set(ids) & set(stable)) < min(40, 50 - 10):
                    failures.append(f"search of {name}: stable images are missing in {ids}")
                done["search"] += 1

    def change(url: str, number: int) -> None:
        draw = random.Random(number)
        with httpx.Client(base_url=url, timeout=60) as http:
            while time.monotonic() < deadline and not failures:
                name = f"moving/{number}/{draw.randrange(5)}"
                data = photo(draw.randrange(1000, 10**6))
                put = http.put(f"/images/{name}", files={"image": data})
                found = http.post("/search", files={"image": data}, data={"limit": 1}).json()
                gone = http.delete(f"/images/{name}")
                after = http.post("/search", files={"image": data}, data={"limit": 60}).json()
                if put.status_code not in (200, 201) or found["results"][0]["id"] != name:
                    failures.append(f"put of {name}: {put.status_code} {found}")
                if gone.status_code != 204 or name in [r["id"] for r in after["results"]]:
                    failures.append(f"delete of {name}: {gone.status_code} {after}")
                done["put"] += 1
                done["delete"] += 1

    with serving(folder) as server:
        add(server, stable)
        deadline = time.monotonic() + seconds
        threads = [threading.Thread(target=search, args=(server.url, n)) for n in range(4)]
        threads += [threading.Thread(target=change, args=(server.url, n)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert server.process.poll() is None
        assert server.http.get("/admin/index").json()["count"] == 40
    assert min(done.values()) > 0
    return done
