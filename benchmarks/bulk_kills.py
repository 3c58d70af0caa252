"""A bulk add that is killed again and again: afterwards every photo is there exactly once.

    python -m benchmarks.bulk_kills --photos 2000 --kills 3

starts `cooc serve`, uploads drawn photos as one job, kills the service (SIGKILL) at random moments
while the job is at work, starts it again each time, and checks what came of it. Prints one JSON
object; the exit code is 1 if anything is missing, twice there or does not find itself.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from benchmarks.crashing.pictures import photo
from benchmarks.crashing.server import UNTRAINED, Service
from benchmarks.harness import machine

BUNDLED = {"COOC_WEIGHTS": "bundled", "COOC_MAX_SIDE": "128"}
END_S = 1800.0


def run(
    photos: int, kills: int, *, seed: int = 0, settings: Mapping[str, str] = UNTRAINED
) -> dict[str, Any]:
    """The figures of one run; see the head of this file. `problems` is empty if all is well."""
    names = [f"set/{number:06d}.jpg" for number in range(photos)]
    with (
        tempfile.TemporaryDirectory(prefix="cooc-kills-") as folder,
        closing(Service(Path(folder) / "index", settings)) as service,
    ):
        starts = [_started(service)]
        begun = time.perf_counter()
        job_url = _offer(service, names)
        acknowledged_s = time.perf_counter() - begun
        killed_at = []
        for moment, pause in _moments(photos, kills, random.Random(seed)):
            killed_at.append(_wait_until(service, job_url, moment))
            time.sleep(pause)
            service.kill()
            starts.append(_started(service))
        job = _ended(service, job_url)
        seconds = time.perf_counter() - begun
        problems = _problems(service, job_url, job, names)
    return {
        "photos": photos,
        "kills": kills,
        "killed_at": killed_at,
        "start_s": [round(start, 2) for start in starts],
        "acknowledged_s": round(acknowledged_s, 2),
        "seconds": round(seconds, 1),
        "state": job["state"],
        "progress": job["progress"],
        "problems": problems,
        "settings": dict(settings),
        "machine": machine(torch.device("cpu")),
    }


def _started(service: Service) -> float:
    """Seconds of a start. Raises RuntimeError if there is no working service after it."""
    start = service.start()
    if start.refusal is not None:
        raise RuntimeError(f"the service does not start: {start.refusal}")
    return start.seconds


def _offer(service: Service, names: Sequence[str]) -> str:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for number, name in enumerate(names):
            archive.writestr(name, photo(number))
    files = {"files": ("photos.zip", packed.getvalue())}
    answer = service.http.post("/index/add", files=files)
    answer.raise_for_status()
    return str(answer.headers["Location"])


def _moments(photos: int, kills: int, draw: random.Random) -> list[tuple[float, float]]:
    """After how many photos to kill, one moment in each part of the job, and how much later.

    So that a kill comes anywhere within a step: while photos are read, described, stored or
    recorded. The last part is longer, as after the end of the job there is nothing to disturb.
    """
    return [
        (photos * (number + draw.uniform(0.2, 0.9)) / (kills + 0.5), draw.uniform(0.0, 0.3))
        for number in range(kills)
    ]


def _wait_until(service: Service, job_url: str, processed: float) -> int:
    """Raises RuntimeError if the job ends before."""
    while True:
        job = service.http.get(job_url).json()
        if job["state"] not in ("queued", "running"):
            raise RuntimeError(f"the job ended before it could be killed: {job}")
        if job["progress"]["processed"] >= processed:
            return int(job["progress"]["processed"])
        time.sleep(0.005)


def _ended(service: Service, job_url: str) -> dict[str, Any]:
    deadline = time.perf_counter() + END_S
    while True:
        job: dict[str, Any] = service.http.get(job_url).json()
        if job["state"] not in ("queued", "running"):
            return job
        if time.perf_counter() > deadline:
            raise RuntimeError(f"the job did not end within {END_S:g} s: {job}")
        time.sleep(0.1)


def _problems(service: Service, job_url: str, job: dict[str, Any], names: list[str]) -> list[str]:
    """What is not as it has to be; [] if every photo is there once and finds itself."""
    problems = []
    wanted = {"total": len(names), "processed": len(names), "added": len(names)}
    if job["state"] != "succeeded" or not wanted.items() <= job["progress"].items():
        problems.append(f"the job ended as {job['state']}: {job['progress']}, {job['error']}")
    errors = service.http.get(f"{job_url}/errors").json()
    if errors["total"]:
        problems.append(f"{errors['total']} errors, the first {errors['errors'][0]}")
    count = service.http.get("/admin/index").json()["count"]
    if count != len(names):
        problems.append(f"{count} images are indexed")
    stored = _stored(service)
    if sorted(stored) != names:
        lost, more = set(names) - set(stored), set(stored) - set(names)
        problems.append(f"lost {sorted(lost)[:5]}, too many {sorted(more)[:5]}")
    for number, name in enumerate(names):
        fields = {"limit": "2", "include": ""}
        answer = service.http.post("/search", files={"image": photo(number)}, data=fields).json()
        hits = [(hit["id"], hit["match_type"]) for hit in answer.get("results", [])]
        if hits[:1] != [(name, "exact")] or [kind for _, kind in hits].count("exact") != 1:
            problems.append(f"{name} does not find itself, alone and first: {hits}")
    return problems


def _stored(service: Service) -> list[str]:
    ids: list[str] = []
    place: dict[str, str] = {}
    while True:
        page = service.http.get("/images", params={"limit": "1000", **place}).json()
        ids += [image["id"] for image in page["images"]]
        if page["next_cursor"] is None:
            return ids
        place = {"cursor": page["next_cursor"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 where anything was lost or wrong."""
    parser = argparse.ArgumentParser(description="Kill a service within a bulk add; count photos.")
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundled", action="store_true", help="with the trunk of the package")
    chosen = parser.parse_args(arguments)
    settings = BUNDLED if chosen.bundled else UNTRAINED
    figures = run(chosen.photos, chosen.kills, seed=chosen.seed, settings=settings)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
