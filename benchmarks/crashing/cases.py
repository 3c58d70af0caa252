"""Every kind of damage done to a copy of one index, and what the service makes of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.crashing.checks import Findings, check
from benchmarks.crashing.damage import (
    Damage,
    catalog_cases,
    cut_log,
    index_cases,
    jobs_cases,
    leave_partial,
)
from benchmarks.crashing.ledger import Ledger, Stored
from benchmarks.crashing.load import Load, add_many, build, is_at_work
from benchmarks.crashing.pictures import photo
from benchmarks.crashing.server import Service

Say = Callable[[str], object]
Environment = Mapping[str, str] | None
Serve = Callable[[Path], Service]
"""Makes a service, not started yet, of a data folder."""

IMAGES, FRESH = 60, 8
"""Images that the generations of the index have, and those added after the last build."""
DISK_KB = 48 << 10
UPLOADS_S = 60.0


@dataclass(frozen=True)
class Sample:
    """An index of a service that was killed: two generations, and images added after them.

    `settled` was stopped before its last writes, so that these stand alone in the catalog's log;
    `last` is the id of the very last. `working` was killed right after it had accepted a bulk
    add, whose job is in its ledger.
    """

    folder: Path
    settled: Path
    working: Path
    ledger: Ledger
    settled_ledger: Ledger
    working_ledger: Ledger
    last: str


def make_sample(folder: Path, environment: Environment = None) -> Sample:
    """Fill `folder` with what the cases damage copies of."""
    ledger = Ledger()
    service = Service(folder / "sample", environment)
    try:
        _must_start(service)
        add_many(service.http, ledger, IMAGES)
        _settle(service, ledger)
        for _ in range(2):
            build(service.http, ledger)
            _settle(service, ledger)
        for number in range(FRESH):
            put(service, ledger, f"fresh/{number}")
        gone = sorted(ledger.live())[0]
        ledger.begin("delete", {gone: None})
        answer = service.http.delete(f"/images/{gone}")
        ledger.settle("delete", [gone], done=answer.status_code == 204)
        service.kill()
        shutil.copytree(service.folder, folder / "killed")
        killed = ledger.copy()

        _must_start(service)
        service.stop()
        _must_start(service)
        for last in ("log/0", "log/1"):
            put(service, ledger, last)
        service.kill()
        shutil.copytree(service.folder, folder / "settled")
        settled = ledger.copy()

        _must_start(service)
        add_many(service.http, ledger, IMAGES)
        service.kill()
        shutil.copytree(service.folder, folder / "working")
    finally:
        service.close()
    return Sample(
        folder / "killed",
        folder / "settled",
        folder / "working",
        killed,
        settled,
        ledger,
        last,
    )


def run_cases(folder: Path, environment: Environment, say: Say) -> list[dict[str, Any]]:
    """What became of each damage; `ok` where nothing was lost, and nothing wrong went unnoticed."""
    sample = make_sample(folder, environment)
    outcomes = []
    for case in cases(sample, lambda at: Service(at, environment)):
        outcome = case(folder)
        shutil.rmtree(folder / "case", ignore_errors=True)
        say(f"{outcome['case']}: {'ok' if outcome['ok'] else outcome['faults']}")
        outcomes.append(outcome)
    return outcomes


def cases(sample: Sample, serve: Serve = Service) -> Iterator[Callable[[Path], dict[str, Any]]]:
    """Each case, to be called with a folder in which it may make another called `case`."""
    for name, damage in index_cases(sample.folder).items():
        yield partial(damaged_index, sample, serve, name, damage)
    yield partial(cut_off_build, sample, serve)
    for name, damage in jobs_cases().items():
        yield partial(damaged_jobs, sample, serve, name, damage)
    yield partial(torn_log, sample, serve)
    for name, damage in catalog_cases(sample.folder).items():
        yield partial(damaged_catalog, sample, serve, name, damage)
    yield partial(full_disk, serve)


# --- the cases ----------------------------------------------------------------------------------


def damaged_index(
    sample: Sample, serve: Serve, name: str, damage: Damage, folder: Path
) -> dict[str, Any]:
    """All images are there and find themselves, whatever the generation files hold."""
    with _copy(sample.folder, folder, serve) as service:
        damage(service.folder)
        return _outcome(name, service, sample.ledger.copy())


def cut_off_build(sample: Sample, serve: Serve, folder: Path) -> dict[str, Any]:
    """What a build left behind that never ended is not searched, and gone after the next one."""
    with _copy(sample.folder, folder, serve) as service:
        leave_partial(service.folder)
        ledger = sample.ledger.copy()
        findings = Findings()
        start = service.start()
        if start.refusal:
            findings.add("not_ready", start.refusal)
        else:
            findings.extend(check(service, ledger), "after")
            build(service.http, ledger)
            findings.extend(check(service, ledger), "after the next build")
            for path in service.folder.rglob("*.part"):
                findings.add("leftover", str(path.relative_to(service.folder)))
        name = "a generation cut off while it was written"
        return _report(name, service, findings, start.seconds)


def damaged_jobs(
    sample: Sample, serve: Serve, name: str, damage: Damage, folder: Path
) -> dict[str, Any]:
    """The index is unharmed, and an acknowledged upload is added, by whichever job."""
    with _copy(sample.working, folder, serve) as service:
        damage(service.folder)
        ledger = sample.working_ledger.copy()
        start = service.start()
        findings = Findings()
        if start.refusal:
            findings.add("not_ready", start.refusal)
        else:
            for job_url, ids in list(ledger.jobs.items()):
                missing = _wait_for_images(service, ids)
                if missing:
                    findings.add("lost", f"{missing} of {len(ids)} images of an upload")
                del ledger.jobs[job_url]
            findings.extend(check(service, ledger), "after")
        return _report(name, service, findings, start.seconds)


def torn_log(sample: Sample, serve: Serve, folder: Path) -> dict[str, Any]:
    """Of a transaction that never became whole, nothing is there; of those before it, all."""
    with _copy(sample.settled, folder, serve) as service:
        cut_log(service.folder)
        ledger = sample.settled_ledger.copy()
        # As if its answer had never been sent.
        ledger.begin("put", {sample.last: None})
        outcome = _outcome("the last transaction of the catalog torn", service, ledger)
        outcome["torn"] = sample.last not in ledger.live()
        return outcome


def damaged_catalog(
    sample: Sample, serve: Serve, name: str, damage: Damage, folder: Path
) -> dict[str, Any]:
    """It is refused, or `cooc index verify` names it; `noticed` has its words."""
    with _copy(sample.folder, folder, serve) as service:
        damage(service.folder)
        noticed = service.verify()
        findings = Findings()
        if not noticed:
            findings.add("verify", "nothing was noticed")
        report = _report(name, service, findings, None)
        return {**report, "noticed": noticed[:5]}


def full_disk(serve: Serve, folder: Path) -> dict[str, Any]:
    """Refused writes leave nothing behind; a kill while there is no room loses nothing."""
    name = "a full disk"
    disk = folder / "case"
    disk.mkdir()
    options = ("-t", "tmpfs", "-o", f"size={DISK_KB}k", "tmpfs")
    try:
        mounted = subprocess.run(["mount", *options, str(disk)], capture_output=True, check=False)
    except FileNotFoundError:
        return {"case": name, "ok": True, "skipped": "there is no command `mount`"}
    if mounted.returncode:
        return {"case": name, "ok": True, "skipped": mounted.stderr.decode().strip()}
    service = serve(disk / "index")
    # Not on the full disk.
    service.log_file = folder / "disk.log"
    ledger, findings = Ledger(), Findings()
    try:
        _must_start(service)
        add_many(service.http, ledger, IMAGES)
        findings.extend(check(service, ledger), "with room")
        ballast = disk / "ballast"
        _fill(ballast)
        load = Load(service.url, ledger, seed=0, target=IMAGES, patch=False)
        load.start()
        time.sleep(2.0)
        service.kill()
        load.stop()
        full = service.start()
        if full.refusal is None:
            findings.extend(check(service, ledger, jobs=False), "without room")
            refused = _try_put(service, ledger)
            if refused not in (201, 507):
                findings.add("unexpected", f"a put without room is answered {refused}")
            service.kill()
        ballast.unlink()
        start = service.start()
        if start.refusal:
            findings.add("not_ready", f"with room again: {start.refusal}")
        else:
            put(service, ledger, "room-again")
            build(service.http, ledger)
            findings.extend(check(service, ledger), "with room again")
        return {
            **_report(name, service, findings, start.seconds),
            "start_without_room": full.refusal or "ready",
        }
    finally:
        service.close()
        # Lazily, as the log of a process that has just ended may still be open.
        subprocess.run(["umount", "-l", str(disk)], check=True)


# --- steps --------------------------------------------------------------------------------------


def put(service: Service, ledger: Ledger, image_id: str) -> None:
    """Add one image, which has to work."""
    status = _try_put(service, ledger, image_id)
    if status not in (200, 201):
        ledger.complain(f"put of {image_id}: {status}")


def _try_put(service: Service, ledger: Ledger, image_id: str = "tried") -> int:
    seed = ledger.new_seed()
    new = Stored.sent(seed, {"colour": f"number {seed}"})
    ledger.begin("put", {image_id: new})
    answer = service.http.put(
        f"/images/{image_id}",
        files={"image": photo(seed)},
        data={"metadata": json.dumps(new.metadata)},
    )
    ledger.settle("put", [image_id], done=answer.status_code in (200, 201))
    return answer.status_code


def _must_start(service: Service) -> None:
    start = service.start()
    if start.refusal:
        raise RuntimeError(f"the service does not start: {start.refusal}")


def _settle(service: Service, ledger: Ledger) -> None:
    """Wait for the jobs; all has to be well before anything is damaged."""
    findings = check(service, ledger)
    if findings.any:
        raise RuntimeError(f"wrong before any damage: {findings.texts(5)}")


def _wait_for_images(service: Service, ids: list[str]) -> int:
    """How many of the images are still missing when nothing more is done about it."""
    deadline = time.monotonic() + UPLOADS_S
    while True:
        # In this order: what a job does after the look is seen by the one after it.
        jobs = service.http.get("/jobs").json()["jobs"]
        idle = not any(map(is_at_work, jobs))
        missing = sum(service.http.get(f"/images/{key}").status_code != 200 for key in ids)
        if not missing or idle or time.monotonic() > deadline:
            return missing
        time.sleep(0.1)


def _fill(ballast: Path) -> None:
    """Take all the room there is."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def _outcome(name: str, service: Service, ledger: Ledger) -> dict[str, Any]:
    start = service.start()
    findings = Findings()
    if start.refusal:
        findings.add("not_ready", start.refusal)
        return _report(name, service, findings, start.seconds)
    findings.extend(check(service, ledger), "after")
    report = _report(name, service, findings, start.seconds)
    report["generation"] = service.http.get("/admin/index").json()["generation"]
    return report


def _report(
    name: str, service: Service, findings: Findings, seconds: float | None
) -> dict[str, Any]:
    return {
        "case": name,
        "ok": not findings.any,
        "faults": findings.texts(10),
        "start_s": None if seconds is None else round(seconds, 2),
        "said": service.complaints()[:5],
    }


@contextmanager
def _copy(source: Path, folder: Path, serve: Serve) -> Iterator[Service]:
    """A service, not started yet, with a copy of a data folder."""
    shutil.copytree(source, folder / "case")
    service = serve(folder / "case")
    try:
        yield service
    finally:
        service.close()
