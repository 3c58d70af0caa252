from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.files.data_folder import DataFolder
from engine.folder_verification import verify_folder
from engine.originals import Originals
from tests.drawing import photo
from tests.indexes import content
from tests.server import SMALL, serving
from tests.test_cli import cooc, cooc_json

pytestmark = pytest.mark.slow

KEEP: dict[str, Any] = {"COOC_KEEP_ORIGINALS": "true"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(60):
        (folder / f"{seed:02d}.jpg").write_bytes(photo(seed, (320, 240)))
    return folder


def test_a_snapshot_of_a_running_service_is_restored(photos: Path, tmp_path: Path) -> None:
    data = ("--data-dir", tmp_path / "index")
    with serving(tmp_path / "index", **KEEP) as server:
        cooc_json("index", "add", photos, *data)
        # A picture that is a page, too, is only ever given as the picture.
        page = photo(77) + b"<script>alert(1)</script>"
        put = server.http.put("/images/a/b.html", files={"image": ("x.html", page, "text/html")})
        assert put.status_code == 201
        answer = server.http.get("/images/a/b.html/original")
        assert (answer.status_code, answer.content) == (200, page)
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"] == "inline; filename*=UTF-8''b.html"
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert cooc_json("index", "verify", *data)["ok"], "beside the service"
        taken = cooc_json("snapshot", "create", "--note", "nightly", *data)
        assert (taken["count"], taken["originals"]) == (61, 61)
        (listed,) = server.http.get("/admin/snapshots").json()["snapshots"]
        assert (listed["name"], listed["note"]) == (taken["name"], "nightly")
        assert server.http.delete("/images/a/b.html").status_code == 204
        refused = cooc("snapshot", "restore", taken["name"], *data, code=1)
        assert "stop it or choose another folder" in refused.stderr
        elsewhere = tmp_path / "elsewhere"
        done = cooc_json("snapshot", "restore", taken["name"], "--into", elsewhere, *data)
        assert (done["count"], done["replaced"], done["queries"]) == (61, None, 32)
    done = cooc_json("snapshot", "restore", taken["name"], *data)
    assert Path(done["replaced"]).is_dir()
    (entry,) = cooc_json("snapshot", "list", *data)["snapshots"]
    assert entry["name"] == taken["name"]
    for folder in (tmp_path / "index", elsewhere):
        assert verify_folder(folder, full=True).problems == []
        assert Originals(folder / "originals").read(hashlib.sha256(page).hexdigest()) == page
    with serving(elsewhere, COOC_MAX_SIDE="96") as server:
        answer = server.http.get("/images/a/b.html")
        assert (answer.status_code, answer.json()["code"]) == (409, "index_mismatch")


def test_originals_are_not_kept_unasked(photos: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "index") as server:
        server.http.put("/images/a", files={"image": photo(1)})
        answer = server.http.get("/images/a/original")
        assert (answer.status_code, answer.json()["code"]) == (404, "no_original")
        assert "COOC_KEEP_ORIGINALS=true" in answer.json()["detail"]
        assert server.http.get("/images/b/original").json()["code"] == "unknown_image"
        assert not (tmp_path / "index" / "originals").exists()


def test_a_collection_moves_to_another_recipe(photos: Path, tmp_path: Path) -> None:
    data = ("--data-dir", tmp_path / "index")
    unset: dict[str, Any] = {"COOC_BACKBONE": "", "COOC_MAX_SIDE": ""}
    cooc_json("index", "add", photos, *data, **KEEP)
    old = cooc_json("index", "stats", *data)
    changes = ("--pooling", "gem:p=4", "--max-side", 160)
    moved = cooc_json("index", "rebuild", *changes, *data, **unset)
    assert (moved["count"], moved["from_originals"], moved["from_thumbnails"]) == (60, 60, 0)
    for name in ("backbone", "weights_digest", "projection_dim", "scales"):
        assert moved["recipe"][name] == old["recipe"][name], name
    assert (moved["recipe"]["max_side"], moved["recipe"]["pooling"]) == (160, "gem")
    found = cooc_json("search", photos / "07.jpg", *data, **unset)["results"]
    assert (found[0]["id"], found[0]["score"]) == ("07.jpg", 1.0)
    # And back, by what had been shown of the old recipe.
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(old))
    from_file = ("index", "rebuild", "--recipe", file, "--from", "thumbnails", *data)
    back = cooc_json(*from_file, **unset)
    assert (back["recipe"], back["from_thumbnails"]) == (old["recipe"], 60)
    assert verify_folder(tmp_path / "index").problems == []
    file.write_text(json.dumps({**old["recipe"], "weights_digest": "0" * 64}))
    refused = cooc(*from_file, code=1, **unset).stderr
    assert "cannot be followed here (weights_digest" in refused
    owner = DataFolder(tmp_path / "index", url="http://127.0.0.1:1")
    assert "stop it or choose" in cooc("index", "rebuild", *changes, *data, code=1).stderr
    owner.release()


def test_a_rebuild_that_is_killed_anywhere_leaves_the_old_or_the_new(
    photos: Path, tmp_path: Path
) -> None:
    data = ("--data-dir", tmp_path / "index")
    cooc_json("index", "add", photos, *data)
    ids = set(content(tmp_path / "index"))
    chance = random.Random(0)
    sides = [160, 128]
    done = 0
    for _ in range(4):
        side = sides[done % 2]
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "index", "rebuild", "--max-side", str(side)]
            + [str(part) for part in data],
            env={**os.environ, **SMALL, "COOC_MAX_SIDE": "", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        process.stderr.readline()  # the first word of it: the model is being loaded
        time.sleep(chance.random() * 2.0)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        DataFolder(tmp_path / "index").release()
        assert set(content(tmp_path / "index")) == ids
        assert verify_folder(tmp_path / "index").problems == []
        done += len(list((tmp_path / "index").glob("replaced/*-rebuild"))) > done
    with serving(tmp_path / "index", COOC_MAX_SIDE="") as server:
        assert server.http.get("/admin/index").json()["count"] == 60
