"""Whether a service that was started again holds what its clients know for certain."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.crashing.ledger import Ledger, Outcome, Stored
from benchmarks.crashing.load import finish, is_at_work
from benchmarks.crashing.pictures import other_file, photo
from benchmarks.crashing.server import Service, detail

KINDS = (
    "lost",
    "resurrected",
    "altered",
    "doubled",
    "not_self_found",
    "miscounted",
    "not_ready",
    "leftover",
    "unexpected",
    "verify",
)
"""What can be wrong: an acknowledged image that is not there, a deleted one that is, one that is
neither old nor new, an id that is answered twice, an image that is not the first answer to itself,
a count that is not that of the images, a service that does not get ready, files that nobody needs,
an answer that nobody should get, a problem that `cooc index verify` names."""
CLIENTS = 4
JOBS_S = 120.0
VECTOR_SAMPLE = 30
GONE = 300
MOST_PARTS = 2
"""Files cut off while they were written: a generation, and the name of the live one."""
GENERATIONS = 2
"""That are kept: the live one and the one before."""
SAME = 0.999
"""Cosine of a picture with itself, read from another file."""


@dataclass
class Findings:
    """What was wrong, each with the case it happened in."""

    faults: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, kind: str, text: str) -> None:
        self.faults[kind].append(text)

    def extend(self, other: Findings, where: str) -> None:
        for kind, texts in other.faults.items():
            self.faults[kind] += [f"{where}: {text}" for text in texts]

    def counts(self) -> dict[str, int]:
        return {kind: len(texts) for kind, texts in self.faults.items()}

    def texts(self, limit: int = 30) -> list[str]:
        return [f"{kind}: {text}" for kind, texts in self.faults.items() for text in texts][:limit]

    @property
    def any(self) -> bool:
        return any(self.faults.values())


def check(
    service: Service, ledger: Ledger, *, every_vector: bool = False, jobs: bool = True
) -> Findings:
    """Hold a service that is ready against the ledger.

    First what was acknowledged one by one, while jobs go on that were cut off; then, when these
    are done, everything. Ids in doubt are settled by what is found.

    Args:
        every_vector: search with another file of every picture, not of a sample only.
        jobs: wait for their end; without room they have none, and what is in doubt stays so.
    """
    findings = Findings()
    _check_images(service, ledger, findings)
    if not jobs:
        return findings
    _wait_for_jobs(service, ledger, findings)
    for image_id in ledger.doubtful():
        found = _stored(service.http, image_id)
        if not ledger.resolve(image_id, found):
            findings.add("altered", f"{image_id} is {found}, neither old nor new")
    _check_images(service, ledger, findings)
    _check_listing(service, ledger, findings)
    _check_searches(service, ledger, findings, every_vector=every_vector)
    _check_files(service.folder, findings)
    for text in ledger.unexpected:
        findings.add("unexpected", text)
    ledger.unexpected.clear()
    return findings


def _check_images(service: Service, ledger: Ledger, findings: Findings) -> None:
    # Of many only the newest: what nobody asks for by its id, the listing and the count show.
    live, gone = ledger.live(), ledger.gone()[-GONE:]
    doubtful = set(ledger.doubtful())
    sure = {key: stored for key, stored in live.items() if key not in doubtful}
    for image_id, found in _each(sure, lambda key: _stored(service.http, key)):
        if found is None:
            findings.add("lost", image_id)
        elif found != sure[image_id]:
            findings.add("altered", f"{image_id} is {found}, not {sure[image_id]}")
    for image_id, found in _each(gone, lambda key: _stored(service.http, key)):
        if found is not None:
            findings.add("resurrected", image_id)


def _stored(http: httpx.Client, image_id: str) -> Outcome:
    """What the service has under an id."""
    answer = http.get(f"/images/{image_id}")
    if answer.status_code == 404:
        return None
    if answer.status_code != 200:
        return Stored(detail(answer), {})
    content = answer.json()
    return Stored(content["digest"], content["metadata"])


def _wait_for_jobs(service: Service, ledger: Ledger, findings: Findings) -> None:
    """Every acknowledged job ends well, and no other is left at work."""
    deadline = time.monotonic() + JOBS_S
    for job_url in list(ledger.jobs):
        while True:
            answer = service.http.get(job_url)
            if answer.status_code != 200:
                findings.add("lost", f"{job_url}: {detail(answer)}")
                break
            if not is_at_work(job := answer.json()):
                break
            if time.monotonic() > deadline:
                findings.add("unexpected", f"{job_url} is at work after {JOBS_S:g} s: {job}")
                return
            time.sleep(0.02)
        finish(ledger, job_url, answer.json())
    # Asked for, and perhaps accepted, when the service went away.
    while any(map(is_at_work, service.http.get("/jobs", params={"limit": 100}).json()["jobs"])):
        if time.monotonic() > deadline:
            findings.add("unexpected", f"jobs are at work after {JOBS_S:g} s")
            return
        time.sleep(0.02)


def _check_listing(service: Service, ledger: Ledger, findings: Findings) -> None:
    live = ledger.live()
    ready = service.http.get("/readyz")
    if ready.status_code != 200:
        findings.add("not_ready", detail(ready))
    count = service.http.get("/admin/index").json()["count"]
    if count != len(live):
        findings.add("miscounted", f"{count} images are counted, {len(live)} are known")
    listed = list(_listed(service.http))
    if not listed:  # a service that lists nothing yet
        return
    if len(set(listed)) != len(listed):
        findings.add("doubled", "an id is listed twice")
    for image_id in sorted(live.keys() - set(listed)):
        findings.add("lost", f"{image_id} is not listed")
    for image_id in sorted(set(listed) - live.keys()):
        findings.add("resurrected", f"{image_id} is listed")


def _listed(http: httpx.Client) -> Iterator[str]:
    """All ids, page by page; none where the service does not know how."""
    cursor: str | None = None
    while True:
        answer = http.get(
            "/images", params={"limit": 100, **({"cursor": cursor} if cursor else {})}
        )
        if answer.status_code != 200:
            return
        content = answer.json()
        yield from (image["id"] for image in content["images"])
        cursor = content.get("next_cursor")
        if not cursor:
            return


def _check_searches(
    service: Service, ledger: Ledger, findings: Findings, *, every_vector: bool
) -> None:
    """Each picture finds itself first: by its digest, and by the vector of its pixels."""
    live = ledger.live()

    def by_digest(image_id: str) -> list[dict[str, Any]]:
        return _search(service.http, photo(live[image_id].seed), limit=5)

    def by_vector(image_id: str) -> list[dict[str, Any]]:
        return _search(service.http, other_file(photo(live[image_id].seed)), limit=100)

    for image_id, results in _each(live, by_digest):
        _check_results(image_id, results, live, findings)
        if results and results[0]["match_type"] != "exact":
            findings.add("not_self_found", f"{image_id} is {results[0]['match_type']} to itself")
    ids = sorted(live)
    sample = ids if every_vector else ids[:: max(1, len(ids) // VECTOR_SAMPLE)]
    for image_id, results in _each(sample, by_vector):
        _check_results(image_id, results, live, findings)
        if results and results[0]["score"] < SAME:
            findings.add("not_self_found", f"{image_id} has {results[0]['score']} with itself")


def _check_results(
    image_id: str, results: list[dict[str, Any]], live: dict[str, Stored], findings: Findings
) -> None:
    found = [result["id"] for result in results]
    if found[:1] != [image_id]:
        findings.add("not_self_found", f"{image_id} finds {found[:2]} first")
    if len(set(found)) != len(found):
        findings.add("doubled", f"a search for {image_id} finds an id twice")
    for stranger in set(found) - live.keys():
        findings.add("resurrected", f"a search for {image_id} finds {stranger}")


def _search(http: httpx.Client, data: bytes, *, limit: int) -> list[dict[str, Any]]:
    query = {"image_base64": base64.b64encode(data).decode()}
    answer = http.post("/search", json={"query": query, "limit": limit})
    if answer.status_code != 200:
        return [{"id": detail(answer), "score": 0.0, "match_type": "none"}]
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def _check_files(folder: Path, findings: Findings) -> None:
    """Nothing is left behind by what was cut off; call it when all jobs are done."""
    spool = folder / "spool"
    left = [path.name for path in spool.iterdir()] if spool.is_dir() else []
    # The next build removes them; they must not become more.
    parts = [str(path.relative_to(folder)) for path in folder.rglob("*.part")]
    for name in left + (parts if len(parts) > MOST_PARTS else []):
        findings.add("leftover", name)
    generations = folder / "generations"
    numbers = [path.name for path in generations.glob("*") if path.name.isdecimal()]
    if len(numbers) > GENERATIONS:
        findings.add("leftover", f"generations {', '.join(sorted(numbers))}")


def _each(ids: Iterable[str], ask: Callable[[str], Any]) -> Iterator[tuple[str, Any]]:
    """Ask for each id, several at a time."""
    wanted = list(ids)
    with ThreadPoolExecutor(CLIENTS) as pool:
        yield from zip(wanted, pool.map(ask, wanted), strict=True)
