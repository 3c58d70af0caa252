from __future__ import annotations

import base64
import io
import json
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import save_file

from app.assembly import open_searcher
from app.main import create_app
from app.settings import Settings
from engine.backbones.untrained import untrained_state
from engine.errors import InvalidOption
from tests.drawing import encode, photo, scene, view
from tests.live import Gate
from tests.patience import PATIENCE_S, until

SMALL: dict[str, Any] = {"backbone": "squeezenet1_1", "weights": "untrained", "max_side": 128}


def make_client(folder: Path, **settings: Any) -> TestClient:
    return TestClient(create_app(Settings(data_dir=folder, **{**SMALL, **settings})))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with make_client(tmp_path / "index") as client:
        yield client


def put(client: TestClient, image_id: str, data: bytes, **metadata: Any) -> Any:
    return client.put(
        f"/images/{image_id}", files={"image": data}, data={"metadata": json.dumps(metadata)}
    )


def search(client: TestClient, data: bytes, **fields: Any) -> dict[str, Any]:
    answer = client.post("/search", files={"image": data}, data=fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def finished(client: TestClient, answer: Any) -> dict[str, Any]:
    """The job of a 202, once it has ended."""
    assert answer.status_code == 202, answer.text
    return until_ended(client, answer.headers["Location"])


def until_ended(client: TestClient, location: str) -> dict[str, Any]:
    job: dict[str, Any] = {}

    def ended() -> bool:
        job.update(client.get(location).json())
        return job["state"] not in ("queued", "running")

    until(ended, 5 * PATIENCE_S)
    return job


def closed_gate(client: TestClient) -> Gate:
    """Before the model: no job can end before it is opened."""
    gate = Gate(client.app.state.cooc.service.searcher)  # type: ignore[attr-defined]
    gate.open.clear()
    return gate


def add(client: TestClient, *files: tuple[str, bytes], **fields: str) -> dict[str, Any]:
    uploads = [("files", file) for file in files]
    return finished(client, client.post("/index/add", files=uploads, data=fields))


def test_photos_are_not_written_to_a_disk_on_their_way(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    large = encode(Image.effect_noise((1500, 1000), 100), "png")
    assert 1 << 20 < len(large) < 8 << 20
    # Where temporary files would be.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert put(client, "large", large).status_code == 201
    assert search(client, large)["results"][0]["id"] == "large"
    two = {"image_a": large, "image_b": large}
    assert client.post("/compare", files=two).status_code == 200
    several = [("image", large), ("image", photo(1))]
    assert client.post("/search/batch", files=several).status_code == 200


def test_an_added_image_is_found_at_once_with_its_metadata(client: TestClient) -> None:
    added = put(client, "beach/one.jpg", photo(1), place="beach")
    assert added.status_code == 201
    assert added.json()["metadata"] == {"place": "beach"}
    answer = search(client, photo(1))
    first = answer["results"][0]
    assert (first["id"], first["rank"], first["match_type"]) == ("beach/one.jpg", 1, "exact")
    assert first["score"] == 1.0
    assert first["metadata"] == {"place": "beach"}
    thumbnail = client.get(first["thumbnail_url"])
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert thumbnail.content[:2] == b"\xff\xd8"
    assert answer["index"]["count"] == 1
    assert set(answer["timing_ms"]) == {"decode", "queue", "describe", "search"}


def test_putting_again_replaces_and_says_so(client: TestClient) -> None:
    assert put(client, "a", photo(1)).status_code == 201
    assert put(client, "a", photo(2)).status_code == 200
    assert search(client, photo(2))["results"][0]["match_type"] == "exact"
    assert [r["match_type"] for r in search(client, photo(1))["results"]] != ["exact"]


def test_a_deleted_image_is_gone_at_once(client: TestClient) -> None:
    put(client, "a/b", photo(1))
    assert client.get("/images/a/b").json()["id"] == "a/b"
    assert client.delete("/images/a/b").status_code == 204
    assert search(client, photo(1))["results"] == []
    for path in ("/images/a/b", "/images/a/b/thumbnail"):
        assert client.get(path).status_code == 404
    assert client.delete("/images/a/b").status_code == 404


def test_search_by_stored_id_and_by_base64_agree_with_the_upload(client: TestClient) -> None:
    for seed in range(5):
        put(client, f"{seed}.jpg", photo(seed))
    uploaded = search(client, photo(3))["results"]
    by_id = client.post("/search", json={"query": {"id": "3.jpg"}}).json()["results"]
    encoded = base64.b64encode(photo(3)).decode()
    by_text = client.post("/search", json={"query": {"image_base64": encoded}}).json()["results"]
    form = client.post("/search", files={"id": (None, "3.jpg")}).json()["results"]
    assert uploaded == by_id == by_text == form
    assert len(uploaded) == 5


def test_empty_form_fields_count_as_absent(client: TestClient) -> None:
    put(client, "a", photo(1))
    assert search(client, photo(1), id="", score_threshold="")["results"][0]["id"] == "a"


def test_options_limit_page_and_filter(client: TestClient) -> None:
    for seed in range(8):
        put(client, f"{seed}.jpg", photo(seed))
    everything = [r["id"] for r in search(client, photo(0))["results"]]
    pages = [
        r["id"]
        for offset in (0, 3, 6)
        for r in search(client, photo(0), limit=3, offset=offset)["results"]
    ]
    assert pages == everything
    others = search(client, photo(0), exclude_self=True)["results"]
    assert [r["id"] for r in others] == everything[1:]
    assert [r["rank"] for r in others] == list(range(1, 8))
    bare = search(client, photo(0), include="", score_threshold=0.9999)["results"]
    assert [(r["id"], r["metadata"], r["thumbnail_url"]) for r in bare] == [("0.jpg", None, None)]


def test_bulk_add_reports_every_file_and_never_stops_at_one(client: TestClient) -> None:
    job = add(
        client,
        ("good.jpg", photo(1)),
        ("bad.jpg", b"this is text"),
        ("same.jpg", photo(1)),
        ("cut.jpg", photo(2)[:500]),
        ("other.png", photo(3, kind="png")),
        metadata='{"from": "test"}',
    )
    assert job["state"] == "partial"
    assert job["progress"] == {
        "total": 5,
        "processed": 5,
        "added": 2,
        "replaced": 0,
        "skipped": 1,
        "failed": 2,
    }
    errors = client.get(f"/jobs/{job['id']}/errors").json()
    assert {(e["name"], e["outcome"]) for e in errors["errors"]} == {
        ("bad.jpg", "failed"),
        ("same.jpg", "skipped"),
        ("cut.jpg", "failed"),
    }
    assert client.get("/images/other.png").json()["metadata"] == {"from": "test"}
    assert client.get("/jobs").json()["jobs"][0]["id"] == job["id"]


def test_the_same_file_twice_is_stored_once(client: TestClient) -> None:
    assert add(client, ("a.jpg", photo(1)))["progress"]["added"] == 1
    assert add(client, ("b.jpg", photo(1)))["progress"]["skipped"] == 1
    assert client.get("/admin/index").json()["count"] == 1


def test_archives_are_taken_apart(client: TestClient) -> None:
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("shoes/red.jpg", photo(1))
        archive.writestr("../../evil.jpg", photo(2))
        archive.writestr("__MACOSX/._red.jpg", b"junk")
        archive.writestr("notes.txt", b"not an image")
    with tarfile.open(fileobj=tarred, mode="w:gz") as archive:
        info = tarfile.TarInfo("hats/blue.jpg")
        info.size = len(photo(3))
        archive.addfile(info, io.BytesIO(photo(3)))
    job = add(client, ("some.zip", zipped.getvalue()), ("more.tar.gz", tarred.getvalue()))
    assert (job["progress"]["added"], job["progress"]["failed"]) == (3, 1)
    for image_id in ("shoes/red.jpg", "evil.jpg", "hats/blue.jpg"):
        assert client.get(f"/images/{image_id}").status_code == 200


def test_a_damaged_archive_is_reported(client: TestClient) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.jpg", photo(1))
        archive.writestr("b.jpg", photo(2))
    damaged = bytearray(zipped.getvalue())
    damaged[len(photo(1)) + 200] ^= 0xFF
    job = add(client, ("some.zip", bytes(damaged)))
    assert job["progress"]["added"] == 1
    assert job["state"] == "partial"


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_damage_in_one_archive_leaves_the_other_files_alone(
    client: TestClient, method: int
) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", method) as archive:
        archive.writestr("a.bmp", encode(scene(1), "BMP"))
    damaged = bytearray(zipped.getvalue())
    damaged[200:260] = bytes(60)
    job = add(client, ("some.zip", bytes(damaged)), ("good.jpg", photo(2)))
    assert (job["progress"]["added"], job["progress"]["failed"]) == (1, 1)


def test_a_file_without_a_name_leaves_the_rest_of_its_archive_alone(client: TestClient) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), photo(1))
        archive.writestr("b.jpg", photo(2))
    job = add(client, ("some.zip", zipped.getvalue()))
    assert job["progress"]["added"] >= 1
    assert search(client, photo(2))["results"][0]["id"] == "b.jpg"


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_an_archive_that_was_cut_off_leaves_the_other_files_alone(
    client: TestClient, kind: str
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{kind}") as archive:  # type: ignore[call-overload]
        info = tarfile.TarInfo("a.jpg")
        info.size = len(photo(1))
        archive.addfile(info, io.BytesIO(photo(1)))
    for share in (0.05, 0.5):
        cut = packed.getvalue()[: int(share * len(packed.getvalue()))]
        job = add(client, (f"{share}.tar.{kind}", cut), (f"{share}.jpg", photo(int(100 * share))))
        assert (job["progress"]["added"], job["progress"]["failed"]) == (1, 1), job


def test_names_that_are_no_text_are_shown_as_well_as_possible(client: TestClient) -> None:
    tarred = io.BytesIO()
    with tarfile.open(
        fileobj=tarred, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1"
    ) as archive:
        for name, data in (("café.jpg", photo(1)), ("thé.jpg", b"no image")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    job = add(client, ("names.tar", tarred.getvalue()))
    errors = client.get(f"/jobs/{job['id']}/errors").json()["errors"]
    assert [error["name"] for error in errors] == ["th?.jpg"]
    assert search(client, photo(1))["results"][0]["id"] == "caf?.jpg"


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(8):
            archive.writestr(f"{number}.bmp", bytes(1 << 20))
    with make_client(tmp_path / "index", max_upload_mb=1, max_bulk_mb=1) as client:
        job = add(client, ("bomb.zip", zipped.getvalue()))
        assert job["state"] == "failed"
        assert "unpacks to more than 4 MB" in job["error"]
        assert list((tmp_path / "index" / "spool").iterdir()) == []


def test_a_cancelled_job_that_had_not_begun_leaves_no_upload(
    client: TestClient, tmp_path: Path
) -> None:
    many = [("files", (f"{seed}.jpg", photo(seed))) for seed in range(100)]
    gate = closed_gate(client)
    first = client.post("/index/add", files=many)
    second = client.post("/index/add", files={"files": photo(200)})
    assert client.delete(second.headers["Location"]).json()["state"] == "cancelled"
    gate.open.set()
    assert finished(client, first)["progress"]["added"] == 100
    assert list((tmp_path / "index" / "spool").iterdir()) == []


def test_build_reload_and_statistics(client: TestClient, tmp_path: Path) -> None:
    add(client, *[(f"{seed}.jpg", photo(seed)) for seed in range(60)])
    before = client.get("/admin/index").json()
    assert (before["generation"], before["unfitted"], before["dim"]) == (0, 60, 8192)
    job = finished(client, client.post("/admin/index/build"))
    assert job["state"] == "succeeded"
    assert job["result"]["generation"] == 1
    after = client.get("/admin/index").json()
    assert (after["generation"], after["unfitted"], after["projected"]) == (1, 0, True)
    assert after["dim"] == 36
    assert 0 < after["explained_variance"] <= 1
    assert client.post("/admin/index/reload").json() == {"generation": 1, "count": 60}
    for seed in range(60):
        assert search(client, photo(seed))["results"][0]["id"] == f"{seed}.jpg"
    assert (tmp_path / "index" / "CURRENT").read_text() == "1\n"


def test_a_bulk_add_that_makes_the_set_grow_fourfold_builds(client: TestClient) -> None:
    sizes = {50: None, 150: 1, 270: None, 620: 2}
    start = 0
    for stop, generation in sizes.items():
        job = add(client, *[(f"{n}.jpg", photo(n)) for n in range(start, stop)])
        assert (job["result"]["build"] is None) == (generation is None)
        if generation is not None:
            build = until_ended(client, f"/jobs/{job['result']['build']}")
            assert build["result"]["generation"] == generation
        start = stop


def test_cropped_shrunk_recompressed_photos_are_found(client: TestClient) -> None:
    """With a tiny untrained trunk, so not all of them; by chance it would be one of 40."""
    add(client, *[(f"{seed}.png", photo(seed, kind="png")) for seed in range(40)])
    found = [search(client, view(scene(seed)))["results"][0]["id"] for seed in range(40)]
    assert sum(name == f"{seed}.png" for seed, name in enumerate(found)) >= 24


def test_build_of_an_empty_index_says_what_to_do(client: TestClient) -> None:
    answer = client.post("/admin/index/build")
    assert answer.status_code == 409
    assert "add images" in answer.json()["detail"]
    answer = client.post("/admin/index/reload")
    assert answer.status_code == 409
    assert "build the index first" in answer.json()["detail"]


def test_health_and_version(client: TestClient) -> None:
    assert client.get("/livez").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    version = client.get("/version").json()
    assert version["weights"]["trained"] is False
    assert "untrained" in version["weights"]["notice"]
    assert version["backbone"] == "squeezenet1_1"
    assert len(version["fingerprint"]) == 64


def test_the_page_and_the_documentation_are_served(client: TestClient) -> None:
    assert "<html" in client.get("/").text
    documentation = client.get("/docs").text
    for address in re.findall(r'(?:src|href)="([^"]+)"', documentation):
        assert address.startswith("/")  # nothing comes from elsewhere
        assert client.get(address).status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/search", "/index/add", "/admin/index/build", "/admin/index/reload"):
        assert "post" in paths[path]


def test_every_reference_of_the_openapi_document_resolves(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)))
    assert references
    for reference in references:
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_request_ids_are_echoed_or_made(client: TestClient) -> None:
    assert (
        client.get("/livez", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    )
    odd = client.get("/livez", headers={"X-Request-ID": 'a"<b>'}).headers["X-Request-ID"]
    assert len(odd) == 32


def test_an_unknown_job_is_404(client: TestClient) -> None:
    for call in (client.get, client.delete):
        assert call("/jobs/nothing").status_code == 404
    assert client.get("/jobs/nothing/errors").status_code == 404


def test_a_job_can_be_cancelled_and_keeps_what_it_added(client: TestClient) -> None:
    uploads = [("files", (f"{seed}.jpg", photo(seed))) for seed in range(200)]
    gate = closed_gate(client)
    answer = client.post("/index/add", files=uploads)
    assert client.delete(answer.headers["Location"]).status_code == 202
    gate.open.set()
    job = finished(client, answer)
    assert job["state"] == "cancelled"
    # The images at hand are finished.
    running = client.app.state.cooc.service.jobs._running  # type: ignore[attr-defined]
    until(lambda: not running.at_work())
    count = client.get("/admin/index").json()["count"]
    assert count < 200
    assert client.get(answer.headers["Location"]).json()["progress"]["added"] == count


def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with make_client(folder) as client:
        add(client, *[(f"{seed}.jpg", photo(seed)) for seed in range(55)])
        finished(client, client.post("/admin/index/build"))
        put(client, "later", photo(99))
        client.delete("/images/0.jpg")
        before = [search(client, photo(seed))["results"] for seed in (1, 99)]
    with make_client(folder) as client:
        assert [search(client, photo(seed))["results"] for seed in (1, 99)] == before
        assert client.get("/admin/index").json()["count"] == 55
        assert client.get("/images/0.jpg").status_code == 404
        assert len(client.get("/jobs").json()["jobs"]) == 2


def test_an_index_keeps_its_own_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with make_client(folder) as client:
        put(client, "a", photo(1))
        fingerprint = client.get("/version").json()["fingerprint"]
    # Started without any wish, it does as before.
    with TestClient(create_app(Settings(data_dir=folder))) as client:
        assert client.get("/version").json()["fingerprint"] == fingerprint
        assert search(client, photo(1))["results"][0]["id"] == "a"


def test_an_index_of_another_recipe_is_refused_with_409_everywhere(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with make_client(folder) as client:
        put(client, "a", photo(1))
    with make_client(folder, pooling="gem") as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/version").status_code == 200
        for answer in (
            client.get("/readyz"),
            client.post("/search", files={"image": photo(1)}),
            put(client, "b", photo(2)),
            client.post("/admin/index/build"),
        ):
            assert answer.status_code == 409
            assert "pooling is cbp_ac:radius=4,dim=8192,seed=0, not gem" in answer.json()["detail"]


def test_an_index_refuses_other_weights_by_name_and_takes_equal_ones(tmp_path: Path) -> None:
    folder, mine = tmp_path / "index", tmp_path / "mine.safetensors"
    with make_client(folder) as client:
        put(client, "a", photo(1))
    save_file(untrained_state("squeezenet1_1", seed=1), mine)
    for other in ("imagenet", "bundled", str(mine)):
        with TestClient(create_app(Settings(data_dir=folder, weights=other))) as client:
            answer = client.post("/search", files={"image": photo(1)})
            assert answer.status_code == 409
            assert f"weights is untrained, not {other}" in answer.json()["detail"]
    save_file(untrained_state("squeezenet1_1"), mine)
    with TestClient(create_app(Settings(data_dir=folder, weights=str(mine)))) as client:
        assert search(client, photo(1))["results"][0]["match_type"] == "exact"
    with pytest.raises(
        InvalidOption, match=r"made with weights untrained: leave /no/such\.pth out"
    ):
        open_searcher(Settings(data_dir=folder, weights="/no/such.pth"))


def test_a_default_that_is_named_is_no_other_pooling(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    named = "cbp_ac:dim=64,cooccurrence=direct,mask=none,root=yes"
    with make_client(folder, pooling=named) as client:
        put(client, "a", photo(1))
        fingerprint = client.get("/version").json()["fingerprint"]
    for same in (named, "cbp_ac:dim=64", "cbp_ac"):
        with make_client(folder, pooling=same) as client:
            assert client.get("/version").json()["fingerprint"] == fingerprint
    for other in ("cbp_ac:mask=sptd", "cbp_ac:cooccurrence=max", "cbp_ac:root=no"):
        with make_client(folder, pooling=other) as client:
            assert client.get("/readyz").status_code == 409


def test_behind_a_prefix_addresses_carry_it(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path / "index", **SMALL))
    with TestClient(app, root_path="/find") as client:
        put(client, "a b/ü.jpg", photo(1))
        url = search(client, photo(1))["results"][0]["thumbnail_url"]
        assert url == "/find/images/a%20b/%C3%BC.jpg/thumbnail"
        assert client.get(url).status_code == 200


def test_expansion_is_reported(client: TestClient) -> None:
    add(client, *[(f"{seed}.jpg", photo(seed)) for seed in range(12)])
    answer = search(client, photo(1), query_expansion="auto")
    assert answer["query_expansion"] == {"method": "auto", "neighbours": 0}


def test_expansion_and_augmentation_are_set_by_form_and_by_json(client: TestClient) -> None:
    """Beside other scenes five recompressed copies of one: certain neighbours."""
    add(client, *[(f"{seed}.jpg", photo(seed)) for seed in range(60)])
    for quality in (95, 90, 85, 80, 75):
        put(client, f"copy {quality}", encode(scene(500), quality=quality))
    finished(client, client.post("/admin/index/build"))
    query = encode(scene(500), quality=70)
    encoded = {"image_base64": base64.b64encode(query).decode()}
    plain = search(client, query, query_expansion="alpha")
    assert plain["query_expansion"] == {"method": "alpha", "neighbours": 5}
    for fields in (
        {"query_expansion": "alpha", "query_expansion_neighbours": 3},
        {"query_expansion": "alpha", "query_expansion_alpha": 0.5},
        {"query_expansion": "alpha", "database_augmentation": 4},
        {"database_augmentation": 50},
    ):
        answer = search(client, query, **fields)
        assert answer["results"] != plain["results"], fields
        assert {r["id"] for r in answer["results"][:5]} == {r["id"] for r in plain["results"][:5]}
        by_json = client.post("/search", json={"query": encoded, **fields}).json()
        assert by_json["results"] == answer["results"]
        expected = {"query_expansion_neighbours": 3}.items() <= fields.items()
        joined = (3 if expected else 5) if "query_expansion" in fields else 0
        assert answer["query_expansion"]["neighbours"] == joined
        assert answer["index"] == plain["index"]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("query_expansion_neighbours", (0, 51, 2.5, "many")),
        ("query_expansion_alpha", (-0.1, 10.1, "nan", "steep")),
        ("database_augmentation", (-1, 51, 1.5, "all")),
    ],
)
def test_options_out_of_range_are_named(
    client: TestClient, field: str, values: tuple[object, ...]
) -> None:
    for value in values:
        form = client.post("/search", files={"image": photo(1)}, data={field: value})
        by_json = client.post("/search", json={"query": {"id": "a"}, field: value})
        for answer in (form, by_json):
            assert answer.status_code == 422
            assert answer.json()["errors"][0]["pointer"] == f"/{field}"
            assert str(value) in answer.json()["detail"]


def test_every_option_of_a_search_is_described(client: TestClient) -> None:
    content = client.get("/openapi.json").json()["paths"]["/search"]["post"]["requestBody"]
    for kind in ("multipart/form-data", "application/json"):
        properties = content["content"][kind]["schema"]["properties"]
        for name in ("query_expansion_neighbours", "query_expansion_alpha"):
            assert properties[name]["description"].endswith(".")
        assert properties["database_augmentation"]["maximum"] == 50


def test_large_photos_keep_their_size_in_the_record(client: TestClient) -> None:
    put(client, "big", encode(scene(5, (900, 400))))
    record = client.get("/images/big").json()
    assert (record["width"], record["height"], record["format"]) == (900, 400, "JPEG")


def test_a_generation_that_is_not_live_yet_is_refused_for_now(client: TestClient) -> None:
    add(client, *[(f"{seed}.jpg", photo(seed)) for seed in range(30)])
    query = {"query": {"id": "1.jpg"}, "min_generation": 1}
    early = client.post("/search", json=query)
    assert early.status_code == 409
    assert early.json()["code"] == "generation_not_reached"
    assert int(early.headers["Retry-After"]) > 0
    finished(client, client.post("/admin/index/build"))
    assert client.post("/search", json=query).json()["index"]["generation"] == 1
