"""Clients that add, replace, delete, build and search at once, until the service is gone."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from benchmarks.crashing.ledger import Ledger, Stored
from benchmarks.crashing.pictures import photo
from benchmarks.crashing.server import detail

WRITERS, SEARCHERS = 3, 2
BULK = 24
"""Images of one bulk add."""
PATIENCE_S = 30.0


class Load:
    """Clients at work on one run of a service.

    `build_asked` is set once a build was acknowledged, `bulk_running` once a bulk add has stored
    its first images, `bulk_ending` once it has stored the last.
    """

    def __init__(self, url: str, ledger: Ledger, *, seed: int, target: int, patch: bool) -> None:
        """
        Args:
            target: stored images, about which their number varies.
            patch: whether the service knows `PATCH /images/{id}`.
        """
        self.build_asked = threading.Event()
        self.bulk_running = threading.Event()
        self.bulk_ending = threading.Event()
        self._url = url
        self._ledger = ledger
        self._target = target
        self._patch = patch
        self._stop = threading.Event()
        work: list[Callable[[httpx.Client, random.Random, int], object]] = [
            *[self._write] * WRITERS,
            *[self._search] * SEARCHERS,
            self._bulk,
            self._build,
        ]
        self._threads = [
            threading.Thread(target=self._run, args=(task, random.Random(f"{seed}/{n}"), n))
            for n, task in enumerate(work)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait until each client has seen that the service is gone."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(
        self,
        task: Callable[[httpx.Client, random.Random, int], object],
        draw: random.Random,
        number: int,
    ) -> None:
        with httpx.Client(base_url=self._url, timeout=PATIENCE_S) as http:
            while not self._stop.is_set():
                try:
                    task(http, draw, number)
                except httpx.TransportError:
                    return  # killed: what was asked for stays in doubt

    # --- writing --------------------------------------------------------------------------

    def _write(self, http: httpx.Client, draw: random.Random, owner: int) -> None:
        kinds = ["put", "upsert", "delete", *(["patch"] if self._patch else [])]
        surplus = len(self._ledger.live()) - self._target
        weights = [1.0, 1.0, 2.0 if surplus > 0 else 0.5, 0.7][: len(kinds)]
        (kind,) = draw.choices(kinds, weights)
        picked = None if kind == "put" else self._ledger.pick(draw, owner, WRITERS)
        if picked is None:
            seed = self._ledger.new_seed()
            self._put(http, "put", _own_id(f"own/{seed}", owner), seed)
        elif kind == "upsert":
            self._put(http, kind, picked[0], self._ledger.new_seed())
        elif kind == "delete":
            self._ledger.begin(kind, {picked[0]: None})
            self._settle(kind, [picked[0]], http.delete(f"/images/{picked[0]}"), 204)
        else:
            self._change_metadata(http, *picked)

    def _put(self, http: httpx.Client, kind: str, image_id: str, seed: int) -> None:
        new = Stored.sent(seed, {"seed": seed, "by": kind})
        content = {"metadata": json.dumps(new.metadata)}
        self._ledger.begin(kind, {image_id: new})
        answer = http.put(f"/images/{image_id}", files={"image": photo(seed)}, data=content)
        self._settle(kind, [image_id], answer, 201 if kind == "put" else 200)

    def _change_metadata(self, http: httpx.Client, image_id: str, stored: Stored) -> None:
        change = {"patched": self._ledger.new_seed()}
        new = Stored.sent(stored.seed, {**stored.metadata, **change})
        self._ledger.begin("patch", {image_id: new})
        answer = http.patch(f"/images/{image_id}", json=change)
        self._settle("patch", [image_id], answer, 200)

    def _settle(self, kind: str, ids: list[str], answer: httpx.Response, expected: int) -> None:
        if answer.status_code >= 500 and answer.status_code not in (503, 507):
            # Nobody can say what has happened: it stays in doubt.
            self._ledger.complain(f"{kind} of {ids[0]}: {detail(answer)}")
            return
        done = answer.status_code == expected
        self._ledger.settle(kind, ids, done=done)
        # A full disk is a case of its own, and says so by itself.
        if not done and answer.status_code != 507:
            self._ledger.complain(f"{kind} of {ids[0]}: {detail(answer)}")

    # --- long work ------------------------------------------------------------------------

    def _bulk(self, http: httpx.Client, draw: random.Random, _: int) -> None:
        job_url = add_many(http, self._ledger, BULK)
        if job_url is not None:
            while not self._stop.is_set():
                job = http.get(job_url).json()
                if job["progress"]["processed"]:
                    self.bulk_running.set()
                if job["progress"]["processed"] == BULK:
                    self.bulk_ending.set()
                if not is_at_work(job):
                    finish(self._ledger, job_url, job)
                    break
                time.sleep(0.01)
        self._stop.wait(draw.uniform(0.0, 1.0))

    def _build(self, http: httpx.Client, draw: random.Random, _: int) -> None:
        self._stop.wait(draw.uniform(0.0, 1.0))
        job_url = build(http, self._ledger)
        if job_url is not None:
            self.build_asked.set()
            while not self._stop.is_set():
                job = http.get(job_url).json()
                if not is_at_work(job):
                    finish(self._ledger, job_url, job)
                    break
                time.sleep(0.02)

    # --- searching ------------------------------------------------------------------------

    def _search(self, http: httpx.Client, draw: random.Random, _: int) -> None:
        """Search with a stored picture, and hold the answer against what was so all the time."""
        live = self._ledger.live()
        if not live:
            return
        image_id = draw.choice(list(live))
        before = self._ledger.versions()
        self._ledger.begin("search", {})
        answer = http.post(
            "/search", files={"image": photo(live[image_id].seed)}, data={"limit": 100}
        )
        self._ledger.settle("search", [], done=answer.status_code == 200)
        after = self._ledger.versions()
        if answer.status_code != 200:
            self._ledger.complain(f"search of {image_id}: {detail(answer)}")
            return
        results: list[dict[str, Any]] = answer.json()["results"]
        found = [result["id"] for result in results]
        steady = {key: there for key, (n, there) in before.items() if after.get(key) == (n, there)}
        if len(set(found)) != len(found):
            self._ledger.complain(f"search of {image_id}: an id is found twice")
        deleted = [key for key in found if steady.get(key) is False]
        if deleted:
            self._ledger.complain(f"search of {image_id}: finds {deleted[0]}, deleted before")
        if steady.get(image_id) and found[:1] != [image_id]:
            self._ledger.complain(f"search of {image_id}: finds {found[:1]} first")


def add_many(http: httpx.Client, ledger: Ledger, count: int) -> str | None:
    """Ask for a bulk add of new images; the address of its job, None if it was refused."""
    images = {
        _bulk_id(seed): Stored.sent(seed, {}) for seed in (ledger.new_seed() for _ in range(count))
    }
    files = [("files", (name, photo(stored.seed))) for name, stored in images.items()]
    ledger.begin("bulk", dict(images))
    answer = http.post("/index/add", files=files)
    if answer.status_code != 202:
        if answer.status_code in (503, 507):
            ledger.settle("bulk", list(images), done=False)
        if answer.status_code != 507:
            ledger.complain(f"bulk add: {detail(answer)}")
        return None
    job_url: str = answer.headers["Location"]
    ledger.accept("bulk", job_url, list(images))
    return job_url


def build(http: httpx.Client, ledger: Ledger) -> str | None:
    """Ask for a build; the address of its job, None if it was refused."""
    ledger.begin("build", {})
    answer = http.post("/admin/index/build")
    if answer.status_code != 202:
        if answer.status_code != 507:
            ledger.complain(f"build: {detail(answer)}")
        return None
    job_url: str = answer.headers["Location"]
    ledger.accept("build", job_url, [])
    return job_url


def is_at_work(job: dict[str, Any]) -> bool:
    return job["state"] in ("queued", "running")


def finish(ledger: Ledger, job_url: str, job: dict[str, Any]) -> None:
    """A job has ended; it must have ended well."""
    if job["state"] != "succeeded":
        ledger.complain(f"{job['type']} {job_url} {job['state']}: {job['error']}")
    ledger.finish(job_url)


def _bulk_id(seed: int) -> str:
    return f"bulk/{seed:06d}.jpg"


def _own_id(name: str, owner: int) -> str:
    """`name` with a number that makes it one of the ids which this owner may change."""
    return next(
        candidate
        for number in range(WRITERS * 10)
        if sum((candidate := f"{name}-{number}").encode()) % WRITERS == owner
    )
