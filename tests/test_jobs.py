"""Jobs of the real service: cancelled, cut off, without their file, without room."""

from __future__ import annotations

import io
import json
import logging
import shutil
import sqlite3
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.jobs import growth, runner, workflows
from app.main import create_app
from app.settings import Settings
from engine.generations import Manifest
from engine.ingest import CHUNK
from engine.searcher import Searcher
from tests.disks import fill, small_disk
from tests.drawing import photo
from tests.live import Gate
from tests.patience import until
from tests.test_api import SMALL, add, finished, make_client, put, search, until_ended
from tests.test_metrics import labels, samples


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with make_client(tmp_path / "index") as client:
        yield client


def service(client: TestClient) -> Any:
    return client.app.state.cooc.service  # type: ignore[attr-defined]


def offer(client: TestClient, first: int, last: int) -> Any:
    uploads = [("files", (f"{seed}.jpg", photo(seed))) for seed in range(first, last)]
    return client.post("/index/add", files=uploads)


def state(client: TestClient, answer: Any) -> dict[str, Any]:
    job: dict[str, Any] = client.get(answer.headers["Location"]).json()
    return job


def slow_build(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Builds take minutes, in small steps, before the real one; unless the event is set."""
    build, hurry = searcher.build, threading.Event()

    def slowly(progress: Any, *, phase: Any) -> Manifest:
        phase("idling")
        for done in range(6000):
            if not hurry.is_set():
                progress(done, 6000)
                time.sleep(0.05)
        return build(progress, phase=phase)

    monkeypatch.setattr(searcher, "build", slowly)
    return hurry


def second_step(client: TestClient) -> Gate:
    """A closed gate before what the next job adds second: it has begun and cannot end."""
    gate = Gate(service(client).searcher, before=CHUNK)
    gate.open.clear()
    return gate


# --- cancelling -----------------------------------------------------------------------------


def test_a_cancelled_build_stops_at_once_and_publishes_nothing(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(client, *[(f"{seed}.jpg", photo(seed)) for seed in range(60)])
    slow_build(service(client).searcher, monkeypatch)
    answer = client.post("/admin/index/build")
    until(lambda: state(client, answer)["progress"]["processed"] > 2)
    assert (state(client, answer)["state"], state(client, answer)["phase"]) == ("running", "idling")
    assert client.delete(answer.headers["Location"]).json()["state"] == "cancelled"
    until(lambda: not service(client).jobs._running.at_work())  # long before its end
    assert state(client, answer)["state"] == "cancelled"
    assert client.get("/admin/index").json()["generation"] == 0
    assert not (tmp_path / "index" / "CURRENT").exists()
    # The next one is not held up.
    monkeypatch.undo()
    built = finished(client, client.post("/admin/index/build"))
    assert built["result"]["generation"] == 1


def test_a_cancelled_add_keeps_its_count_over_a_restart(tmp_path: Path) -> None:
    with make_client(tmp_path / "index") as client:
        gate = second_step(client)
        answer = offer(client, 0, 120)
        until(lambda: state(client, answer)["progress"]["processed"] > 0)
        client.delete(answer.headers["Location"])
        gate.open.set()
        until(lambda: not service(client).jobs._running.at_work())
        until(lambda: not list((tmp_path / "index" / "spool").iterdir()))
        count = client.get("/admin/index").json()["count"]
        assert 0 < count < 120
    with make_client(tmp_path / "index") as client:
        job = state(client, answer)
        assert job["state"] == "cancelled"
        assert (job["progress"]["added"], job["progress"]["total"]) == (count, 120)
        assert client.get("/admin/index").json()["count"] == count


def test_cancelling_a_job_that_has_ended_changes_nothing(client: TestClient) -> None:
    job = add(client, ("a.jpg", photo(1)))
    assert client.delete(f"/jobs/{job['id']}").json()["state"] == "succeeded"


def test_a_job_is_counted_once_however_often_it_is_cancelled(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled() -> float:
        return samples(client)["cooc_jobs_ended_total"][labels(type="build", state="cancelled")]

    put(client, "a", photo(1))
    slow_build(service(client).searcher, monkeypatch)
    running = client.post("/admin/index/build")
    until(lambda: state(client, running)["state"] == "running")
    waiting = client.post("/admin/index/build")
    for count, answer in enumerate((waiting, running), start=1):
        client.delete(answer.headers["Location"])
        until(lambda count=count: cancelled() == count)  # type: ignore[misc]
        client.delete(answer.headers["Location"])
        assert cancelled() == count


# --- builds that queue themselves -----------------------------------------------------------


def test_one_build_waits_however_often_it_is_asked_for(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, "a", photo(1))
    hurry = slow_build(service(client).searcher, monkeypatch)
    running = client.post("/admin/index/build")
    until(lambda: state(client, running)["state"] == "running")
    waiting = {client.post("/admin/index/build").json()["id"] for _ in range(3)}
    assert len(waiting) == 1
    assert waiting != {running.json()["id"]}
    hurry.set()
    assert until_ended(client, f"/jobs/{waiting.pop()}")["result"]["generation"] == 2


def test_adds_go_on_while_a_build_runs(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    put(client, "a", photo(1))
    hurry = slow_build(service(client).searcher, monkeypatch)
    building = client.post("/admin/index/build")
    until(lambda: state(client, building)["state"] == "running")
    assert add(client, ("b.jpg", photo(2)))["progress"]["added"] == 1
    assert state(client, building)["state"] == "running"
    hurry.set()
    job = finished(client, building)
    assert job["result"]["count"] == 2
    assert job["progress"]["processed"] == job["progress"]["total"] == 2


def test_single_writes_queue_one_build_when_the_collection_has_grown(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "MIN_IMAGES", 6)
    jobs = service(client).jobs
    for seed in range(12):
        put(client, f"{seed}", photo(seed))
        jobs.wrote(1)
    builds = client.get("/jobs", params={"type": "build"}).json()["jobs"]
    assert len(builds) == 1
    until_ended(client, f"/jobs/{builds[0]['id']}")
    assert client.get("/admin/index").json()["generation"] == 1


def test_no_build_queues_itself_where_that_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "MIN_IMAGES", 2)
    with make_client(tmp_path / "index", auto_build=False) as client:
        job = add(client, *[(f"{seed}.jpg", photo(seed)) for seed in range(5)])
        service(client).jobs.wrote(5)
        assert job["result"] == {"build": None}
        assert client.get("/jobs", params={"type": "build"}).json()["jobs"] == []


# --- looking --------------------------------------------------------------------------------


def test_jobs_are_listed_by_state_and_type(client: TestClient) -> None:
    good = add(client, ("a.jpg", photo(1)))["id"]
    part = add(client, ("b.jpg", photo(2)), ("bad.jpg", b"no image"))["id"]
    bad = add(client, ("bad.jpg", b"no image"))["id"]
    built = finished(client, client.post("/admin/index/build"))["id"]

    def listed(**wishes: str | int) -> list[str]:
        answer = client.get("/jobs", params=wishes)
        return [job["id"] for job in answer.json()["jobs"]]

    assert listed() == [built, bad, part, good]
    assert listed(limit=2) == [built, bad]
    assert listed(state="succeeded") == [built, good]
    assert listed(state="succeeded", type="add") == [good]
    assert listed(state="partial") == [part]
    assert listed(state="failed") == [bad]
    assert listed(state="running") == listed(state="queued") == listed(state="cancelled") == []
    assert listed(type="build") == [built]
    assert listed(type="duplicates") == []
    assert client.get("/jobs", params={"state": "odd"}).status_code == 422


def test_pages_of_errors_are_all_errors(client: TestClient) -> None:
    files = [(f"{n:03d}.jpg", photo(0) if n % 3 else b"no image") for n in range(100)]
    job = add(client, *files)
    url = f"/jobs/{job['id']}/errors"
    whole = client.get(url).json()
    assert (whole["total"], len(whole["errors"]), whole["next_cursor"]) == (99, 99, None)
    assert [entry["name"] for entry in whole["errors"]] == sorted(
        name for name, _ in files if name != "001.jpg"
    )
    pages: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get(url, params={"limit": 7, **cursor}).json()
        assert page["total"] == 99
        assert 0 < len(page["errors"]) <= 7
        pages += page["errors"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert pages == whole["errors"]
    assert client.get(url, params={"cursor": "x"}).status_code == 422


def test_the_same_file_twice_in_one_upload_is_added_once(client: TestClient) -> None:
    """In other groups of images than the first time, too."""
    files = [("a.jpg", photo(0))] * 40
    job = add(client, *files)
    assert (job["progress"]["added"], job["progress"]["skipped"]) == (1, 39)


def test_old_jobs_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "KEPT_JOBS", 3)
    with make_client(tmp_path / "index") as client:
        ids = [add(client, (f"{seed}.jpg", photo(seed)))["id"] for seed in range(5)]
    with make_client(tmp_path / "index") as client:
        assert [job["id"] for job in client.get("/jobs").json()["jobs"]] == ids[:1:-1]
        assert client.get(f"/jobs/{ids[0]}").status_code == 404
    with closing(sqlite3.connect(tmp_path / "index" / "jobs.sqlite")) as connection:
        kept = connection.execute("SELECT DISTINCT workflow_uuid FROM operation_outputs").fetchall()
    assert {name for (name,) in kept} == set(ids[2:])


def test_near_duplicates_are_a_job_with_a_result(client: TestClient) -> None:
    assert client.post("/admin/index/duplicates").status_code == 409
    files = [(f"{seed}.jpg", photo(seed)) for seed in range(30)]
    add(client, *files, ("big.png", photo(3, (320, 240), "png")))
    job = finished(client, client.post("/admin/index/duplicates", json={"min_score": 0.995}))
    assert (job["type"], job["state"]) == ("duplicates", "succeeded")
    assert job["progress"]["processed"] == job["progress"]["total"] == 31
    result = client.get(f"/jobs/{job['id']}/result").json()
    assert job["result"] == {k: v for k, v in result.items() if k not in ("groups", "next_cursor")}
    assert result["bound"]["min_score"] == 0.995
    stored = {group["keep"]: group for group in result["groups"]}
    if "big.png" in stored:  # the same picture, larger: as near as this trunk finds it
        assert {"3.jpg", "big.png"} <= {member["id"] for member in stored["big.png"]["members"]}
    page = client.get(f"/jobs/{job['id']}/result", params={"limit": 1}).json()
    assert page["groups"] == result["groups"][:1]


def test_duplicates_asked_for_wrongly_are_refused_before_the_work(client: TestClient) -> None:
    put(client, "a", photo(1))
    for wrong in (
        {"min_score": 2},
        {"min_score": 0.9, "min_probability": 0.9},
        {"min_probability": 0.9},
        {"limit": 0},
        {"odd": 1},
    ):
        assert client.post("/admin/index/duplicates", json=wrong).status_code == 422


def test_a_snapshot_is_a_job(client: TestClient, tmp_path: Path) -> None:
    assert client.post("/admin/snapshots").status_code == 409
    add(client, *[(f"{seed}.jpg", photo(seed)) for seed in range(5)])
    job = finished(client, client.post("/admin/snapshots", json={"note": "before the move"}))
    assert (job["type"], job["state"], job["error"]) == ("snapshot", "succeeded", None)
    (listed,) = client.get("/admin/snapshots").json()["snapshots"]
    assert job["result"] == listed
    assert (listed["count"], listed["note"]) == (5, "before the move")
    assert client.get(f"/jobs/{job['id']}/result").json() == listed


def test_going_back_a_generation_is_not_undone_by_the_next_write(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "MIN_IMAGES", 12)
    assert client.post("/admin/index/rollback").json()["code"] == "no_generation"
    add(client, *[(f"{seed}.jpg", photo(seed)) for seed in range(6)])
    finished(client, client.post("/admin/index/build"))
    add(client, *[(f"{seed}.jpg", photo(seed)) for seed in range(6, 20)])
    finished(client, client.post("/admin/index/build"))
    assert client.post("/admin/index/rollback").json() == {"generation": 1, "count": 20}
    assert search(client, photo(17), limit=1)["results"][0]["id"] == "17.jpg"
    add(client, ("x.jpg", photo(30)))  # of 6 images to 21 that is more than fourfold
    assert client.get("/admin/index").json()["generation"] == 1
    back = client.post("/admin/index/rollback", json={"generation": 2})
    assert back.json() == {"generation": 2, "count": 21}
    assert client.post("/admin/index/rollback", json={"generation": 7}).status_code == 409


def test_without_calibrated_scores_there_is_no_picture_of_them(client: TestClient) -> None:
    answer = client.get("/admin/index/reliability")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_report")
    assert "a build of 50 images or more" in answer.json()["detail"]


def test_a_job_without_a_result_says_so(client: TestClient) -> None:
    job = add(client, ("a.jpg", photo(1)))
    answer = client.get(f"/jobs/{job['id']}/result")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_report")
    assert client.get("/jobs/nothing/result").json()["code"] == "unknown_job"


# --- without the file of the jobs -----------------------------------------------------------


def cut_off(folder: Path) -> tuple[str, int]:
    """A bulk add of 48 that an end of the service cut off; its id, and how many it had added."""
    with make_client(folder) as client:
        second_step(client).open = service(client).jobs._running.stopping
        answer = offer(client, 0, 48)
        until(lambda: state(client, answer)["progress"]["processed"] > 0)
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM images").fetchone()
    assert 0 < count < 48
    return answer.json()["id"], count


@pytest.mark.parametrize("loss", ["deleted", "junk"])
def test_a_lost_file_of_jobs_loses_no_upload(
    tmp_path: Path, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "index"
    job_id, _ = cut_off(folder)
    jobs = folder / "jobs.sqlite"
    for file in folder.glob("jobs.sqlite*"):
        file.unlink()
    if loss == "junk":
        jobs.write_bytes(bytes(range(256)) * 64)
    with caplog.at_level(logging.WARNING), make_client(folder) as client:
        assert f"the upload {job_id} has no job; it is queued again" in caplog.text
        assert ("list of earlier jobs is lost" in caplog.text) == (loss != "deleted")
        job = until_ended(client, f"/jobs/{job_id}")
        assert (job["state"], job["progress"]["added"]) == ("succeeded", 48)
        assert client.get("/admin/index").json()["count"] == 48
        for seed in range(48):
            first = search(client, photo(seed), limit=1)["results"][0]
            assert (first["id"], first["match_type"]) == (f"{seed}.jpg", "exact")
        assert not list((folder / "spool").iterdir())


def test_a_job_of_another_version_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "VERSION", "0")
        job_id, _ = cut_off(folder)
    with make_client(folder) as client:
        job = until_ended(client, f"/jobs/{job_id}")
        assert (job["state"], job["progress"]["added"]) == ("succeeded", 48)
        assert client.get("/admin/index").json()["count"] == 48


def test_an_upload_that_was_cut_off_is_reported_and_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "index"
    half = folder / "spool" / ("a" * 32)
    half.mkdir(parents=True)
    (half / "upload-000000").write_bytes(photo(1))
    with caplog.at_level(logging.WARNING), make_client(folder) as client:
        assert client.get("/jobs").json()["jobs"] == []
        assert not half.exists()
    assert f"the upload {'a' * 32} was cut off before it was accepted" in caplog.text


def test_what_is_left_of_the_upload_of_an_ended_job_is_not_added_again(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with make_client(folder) as client:
        job = add(client, ("a.jpg", photo(1)))
        client.delete("/images/a.jpg")
    left = folder / "spool" / job["id"]
    left.mkdir()
    (left / "upload-000000").write_bytes(photo(1))
    (left / "uploads.json").write_text(json.dumps({"names": ["a.jpg"], "metadata": {}}))
    with make_client(folder) as client:
        assert not left.exists()
        assert client.get("/admin/index").json()["count"] == 0
        assert [entry["id"] for entry in client.get("/jobs").json()["jobs"]] == [job["id"]]


# --- without room ---------------------------------------------------------------------------


def test_a_job_waits_for_room_and_then_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows, "RETRY_S", 0.1)
    monkeypatch.setattr(runner, "WATCH_S", 0.3)
    with small_disk(tmp_path / "disk", size_kb=24_576) as disk:
        settings = Settings(data_dir=disk / "index", **SMALL)
        with TestClient(create_app(settings), raise_server_exceptions=False) as client:
            put(client, "kept", photo(500))
            gate = second_step(client)
            answer = offer(client, 0, 80)
            until(lambda: state(client, answer)["progress"]["processed"] > 0)
            ballast = fill(disk)
            gate.open.set()
            until(lambda: state(client, answer)["waiting"] is not None)
            assert state(client, answer)["state"] == "running"
            assert offer(client, 300, 301).status_code == 507
            assert search(client, photo(500), limit=1)["results"][0]["id"] == "kept"
            time.sleep(1.0)
            assert state(client, answer)["state"] == "running"
            ballast.unlink()
            job = finished(client, answer)
            assert (job["state"], job["progress"]["added"]) == ("succeeded", 80)
            assert job["waiting"] is None
            assert client.get("/admin/index").json()["count"] == 81


@pytest.mark.parametrize(
    "event",
    ["INSERT ON operation_outputs", "UPDATE ON workflow_status WHEN NEW.status = 'SUCCESS'"],
    ids=["a step", "the end"],
)
def test_a_job_that_cannot_be_recorded_goes_on_once_it_can(
    client: TestClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    event: str,
) -> None:
    monkeypatch.setattr(runner, "WATCH_S", 0.2)
    add(client, ("first.jpg", photo(99)))
    jobs = tmp_path / "index" / "jobs.sqlite"
    refuse = f"CREATE TRIGGER refuse BEFORE {event} BEGIN SELECT RAISE(FAIL, 'no room'); END"
    with closing(sqlite3.connect(jobs, timeout=30)) as connection:
        connection.execute(refuse)
    answer = offer(client, 0, 40)
    until(lambda: f"the job {answer.json()['id']} is taken up again" in caplog.text)
    assert state(client, answer)["state"] in ("queued", "running")
    with closing(sqlite3.connect(jobs, timeout=30)) as connection:
        connection.execute("DROP TRIGGER refuse")
    job = finished(client, answer)
    assert (job["state"], job["progress"]["added"]) == ("succeeded", 40)
    assert client.get("/admin/index").json()["count"] == 41
    assert client.get(f"/jobs/{job['id']}/errors").json()["total"] == 0


def test_an_archive_waits_for_room_without_keeping_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflows, "RETRY_S", 0.2)
    with small_disk(tmp_path / "disk", size_kb=24_576) as disk:
        settings = Settings(data_dir=disk / "index", **SMALL)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(8):  # 3 MB each of what packs well
                archive.writestr(f"{number}.bmp", bytes(3 << 20))
            archive.writestr("good.jpg", photo(1))
        with TestClient(create_app(settings), raise_server_exceptions=False) as client:
            answer = client.post("/index/add", files={"files": ("a.zip", packed.getvalue())})
            until(lambda: state(client, answer)["waiting"] is not None)
            assert put(client, "other", photo(2)).status_code == 201
            assert client.delete(answer.headers["Location"]).json()["state"] == "cancelled"
            until(lambda: not list((disk / "index" / "spool").iterdir()))


def test_a_service_starts_on_a_full_disk_and_takes_up_jobs_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "WATCH_S", 0.3)
    job_id, _ = cut_off(tmp_path / "index")
    with small_disk(tmp_path / "disk", size_kb=24_576) as disk:
        shutil.copytree(tmp_path / "index", disk / "index")
        (disk / "index" / "jobs.sqlite").unlink()  # a new one needs room
        settings = Settings(data_dir=disk / "index", **SMALL)
        ballast = fill(disk, leave_kb=40)  # what the catalog needs to be opened
        with TestClient(create_app(settings), raise_server_exceptions=False) as client:
            assert "jobs cannot run yet" in caplog.text
            assert search(client, photo(0), limit=1)["results"][0]["id"] == "0.jpg"
            for answer in (client.get("/jobs"), client.get(f"/jobs/{job_id}")):
                assert answer.status_code == 507
            ballast.unlink()
            until(lambda: client.get(f"/jobs/{job_id}").status_code == 200)
            assert until_ended(client, f"/jobs/{job_id}")["progress"]["added"] == 48
