"""docs/deployment.md as a newcomer goes through it, with whatever `docker` the shell finds.

Its blocks are run in their order, in one shell; what each of them promises is then looked at from
outside.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import torch

from app import __version__
from engine.backbones.untrained import untrained_state
from engine.backbones.weights import state_digest
from tests.documented import blocks
from tests.drawing import photo
from tests.patience import until
from tests.visitor import ROOT, Visitor, commit

PAGE, README = ROOT / "docs" / "deployment.md", ROOT / "README.md"
WEIGHTS = "vgg16-397923af.pth"
NEXT_VERSION = f"{__version__}.post1"
KEY = re.compile(r"cooc_[0-9a-f]+_[0-9a-f]+")


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of what programs have printed, which may follow each other on a line."""
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError:
            end = at + 1
        else:
            yield value
        at = text.find("{", end)


def it_is_ready_and_asks_for_the_key(visitor: Visitor) -> None:
    key = visitor.run('printf %s "$KEY"')
    assert KEY.fullmatch(key)
    assert visitor.http.get("/readyz").json() == {"status": "ok"}
    assert visitor.http.get("/").text.startswith("<!doctype html>")
    assert visitor.http.get("/version").status_code == 401
    visitor.with_key(key)
    assert visitor.http.get("/version").json()["version"] == __version__


def bring_weights(visitor: Visitor) -> None:
    torch.save(untrained_state(visitor.trunk, seed=1), visitor.clone / WEIGHTS)


def its_weights_are_those(visitor: Visitor) -> None:
    told = visitor.http.get("/version").json()
    assert told["backbone"] == visitor.trunk
    assert told["weights"]["name"].endswith(f"/{WEIGHTS}")
    state = torch.load(visitor.clone / WEIGHTS, weights_only=True)
    assert told["weights"]["digest"] == state_digest(state)


def the_photos_are_found(visitor: Visitor) -> None:
    found = next(answer["results"] for answer in objects(visitor.said) if "results" in answer)
    assert (found[0]["id"], found[0]["match_type"]) == ("beach.jpg", "exact")
    visitor.waits_for_jobs()
    visitor.finds(3, "3.jpg")


def the_new_key_is_for_searches_alone(visitor: Visitor) -> None:
    assert "web shop" in visitor.said
    (key,) = KEY.findall(visitor.said)
    headers = {"Authorization": f"Bearer {key}"}
    assert visitor.http.get("/version", headers=headers).status_code == 200
    image = {"image": photo(9)}
    assert visitor.http.put("/images/x.jpg", files=image, headers=headers).status_code == 403


def it_is_built(visitor: Visitor) -> None:
    index = visitor.http.get("/admin/index").json()
    assert (index["count"], index["generation"]) == (4, 1)


def the_folder_is_added(visitor: Visitor) -> None:
    visitor.finds(20, "20.jpg")
    visitor.finds(21, "21.jpg")


def the_settings_are_shown(visitor: Visitor) -> None:
    assert f"/cache/{WEIGHTS}" in visitor.said


def it_answers_with_that_certificate(visitor: Visitor) -> None:
    assert visitor.certificate() == (visitor.clone / "tls" / "fullchain.pem").read_text()
    with visitor.securely() as https:
        visitor.finds(20, "20.jpg", https)
    moved = visitor.http.get("/readyz")
    assert moved.status_code == 308
    assert moved.headers["Location"] == f"https://localhost:{visitor.ports.https}/readyz"


def renew_the_certificate(visitor: Visitor) -> None:
    (command,) = re.findall(r"^openssl .*$", PAGE.read_text(), re.MULTILINE)
    visitor.run(command)
    # Nobody has told it yet.
    assert visitor.certificate() != (visitor.clone / "tls" / "fullchain.pem").read_text()


def it_answers_with_the_renewed_one(visitor: Visitor) -> None:
    renewed = (visitor.clone / "tls" / "fullchain.pem").read_text()
    # For a moment workers with the old one take connections too.
    until(lambda: all(visitor.certificate() == renewed for _ in range(20)))
    with visitor.securely() as https:
        visitor.finds(21, "21.jpg", https)


def the_snapshot_is_taken_away(visitor: Visitor) -> None:
    assert "nightly" in visitor.said
    with tarfile.open(visitor.clone / "snapshots.tar") as archive:
        names = archive.getnames()
    assert len([name for name in names if name.endswith("/snapshot.json")]) == 1
    assert len([name for name in names if name.endswith("/catalog.sqlite")]) == 1


def lose_a_photo(visitor: Visitor) -> None:
    with visitor.securely() as https:
        assert https.delete("/images/beach.jpg").status_code == 204
        assert https.get("/admin/index").json()["count"] == 5


def the_photo_is_back(visitor: Visitor) -> None:
    said = re.sub(r"\s+", " ", visitor.said)
    assert "6 images in" in said
    assert "searches answered as when the snapshot was taken" in said
    visitor.finds(1, "beach.jpg")


def publish_a_version(visitor: Visitor) -> None:
    path = visitor.origin / "app" / "__init__.py"
    path.write_text(path.read_text().replace(f'"{__version__}"', f'"{NEXT_VERSION}"'))
    commit(visitor.origin, "The next version")


def it_is_of_version(version: str) -> Callable[[Visitor], None]:
    def check(visitor: Visitor) -> None:
        assert visitor.http.get("/version").json()["version"] == version
        visitor.finds(1, "beach.jpg")

    return check


def the_clone_is_of_the_next_version(visitor: Visitor) -> None:
    assert NEXT_VERSION in (visitor.clone / "app" / "__init__.py").read_text()


def it_can_be_watched(visitor: Visitor) -> None:
    assert visitor.said.count('{"status":"ok"}') == 2
    assert "\n# TYPE cooc_" in visitor.said
    *_, index = objects(visitor.said)
    assert index["count"] == 6
    assert visitor.http.get("/version").json()["weights"]["name"].endswith(WEIGHTS)


def it_serves_without_compose(visitor: Visitor) -> None:
    (key,) = KEY.findall(visitor.said)
    url = f"http://localhost:{visitor.ports.alone}"
    with httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=60) as http:
        assert http.get("/version").json()["version"] == NEXT_VERSION
        assert http.put("/images/a.jpg", files={"image": photo(30)}).status_code == 201
        visitor.finds(30, "a.jpg", http)
    # The other collection has nothing of it.
    assert visitor.http.get("/images/a.jpg").status_code == 404


def it_is_gone_but_the_other_is_not(visitor: Visitor) -> None:
    assert not answers(visitor.ports.alone)
    visitor.finds(1, "beach.jpg")


def nothing_is_left(visitor: Visitor) -> None:
    assert not answers(visitor.ports.http)
    assert not answers(visitor.ports.https)


def answers(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        httpx.get(f"http://localhost:{port}/livez", timeout=10)
        return True
    return False


Check = Callable[[Visitor], None]

SEARCH = (
    'curl --fail -H "Authorization: Bearer $KEY" -F image=@query.jpg http://localhost:8080/search'
)
COPY = f"docker compose cp {WEIGHTS} cooc:/cache/"
FOLDER = 'docker compose exec -T -e COOC_API_KEY="$KEY" cooc cooc index add /photos'
STOP = "docker compose stop cooc"
HUP = "docker compose kill -s HUP nginx"

BEFORE: dict[str, Check] = {
    COPY: bring_weights,
    HUP: renew_the_certificate,
    STOP: lose_a_photo,
    "git pull": publish_a_version,
}
"""What somebody has done before the block with this command."""

AFTER: dict[str, Check] = {
    "docker compose build": it_is_ready_and_asks_for_the_key,
    COPY: its_weights_are_those,
    SEARCH: the_photos_are_found,
    "docker compose exec -T cooc cooc keys list": the_new_key_is_for_searches_alone,
    "docker compose exec -T cooc cooc index verify": it_is_built,
    FOLDER: the_folder_is_added,
    "docker compose config": the_settings_are_shown,
    "mkdir -p tls": it_answers_with_that_certificate,
    HUP: it_answers_with_the_renewed_one,
    "docker compose exec -T cooc cooc snapshot list": the_snapshot_is_taken_away,
    STOP: the_photo_is_back,
    "git pull": it_is_of_version(NEXT_VERSION),
    "git checkout before-upgrade": it_is_of_version(__version__),
    "git checkout main": the_clone_is_of_the_next_version,
    "docker compose ps": it_can_be_watched,
    "docker build -f docker/Dockerfile -t cooc-image-search:cpu .": it_serves_without_compose,
    "docker rm -f cooc": it_is_gone_but_the_other_is_not,
    "docker compose down": nothing_is_left,
}
"""What is then true after it: each block has its own."""


def follow_the_page(visitor: Visitor, **more: Check) -> None:
    """Runs all of the page. `more` are further checks, by names of those they come after."""
    before, after = dict(BEFORE), dict(AFTER)
    for kind, code in blocks(PAGE):
        if kind == "yaml":
            assert "/srv/photos" in code
            override = code.replace("/srv/photos", str(visitor.photos))
            (visitor.clone / "docker-compose.override.yml").write_text(override)
            continue
        assert kind == "sh", code
        commands = code.splitlines()
        for check in [before.pop(command) for command in commands if command in before]:
            check(visitor)
        visitor.run(code)
        checks = [after.pop(command) for command in commands if command in after]
        assert checks, f"nothing is known of what comes of\n{code}"
        for check in checks:
            check(visitor)
            if check.__name__ in more:
                more.pop(check.__name__)(visitor)
    assert not before | after, "these commands are no longer on the page"
    assert not more


def follow_the_readme(visitor: Visitor) -> None:
    """Runs what it says of containers."""
    (code,) = [code for kind, code in blocks(README) if kind == "sh" and "docker" in code]
    (key,) = KEY.findall(visitor.run(code))
    visitor.with_key(key)
    assert visitor.http.get("/").text.startswith("<!doctype html>")
    image = {"image": photo(1)}
    assert visitor.http.put("/images/beach.jpg", files=image).status_code == 201
    visitor.finds(1, "beach.jpg")


def move_there(visitor: Visitor, archive: Path) -> None:
    """Does what the page says of another machine, where the service runs already."""
    shutil.copy(archive, visitor.clone)
    # Weights come before the first photo.
    assert visitor.http.delete("/images/beach.jpg").status_code == 204
    bring_weights(visitor)
    visitor.run(block_with(COPY))
    its_weights_are_those(visitor)
    visitor.run(block_with(STOP))
    the_photo_is_back(visitor)


def block_with(command: str) -> str:
    (code,) = [code for _, code in blocks(PAGE) if command in code.splitlines()]
    return code
