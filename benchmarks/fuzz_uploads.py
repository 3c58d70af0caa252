"""Files that nobody should send, to a real service: it answers all of them and stays well.

    python -m benchmarks.fuzz_uploads --cases 5000

starts `cooc serve`, sends damaged, lying, huge, mistyped images and archives (the same ones for the
same `--seed`) to search, compare, add and bulk-add them, and holds every answer against the
service's own description: nothing of 500 or more, every refusal a problem document. Memory is
compared with what it was after a first part of the cases; at the end a good search has to be right.
Prints one JSON object; the exit code is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from benchmarks.crashing.pictures import photo
from benchmarks.crashing.server import UNTRAINED, Service
from benchmarks.fuzzing.answers import judge
from benchmarks.fuzzing.cases import Case, cases

LIMITS = {
    "COOC_MAX_UPLOAD_MB": "8",
    "COOC_MAX_BULK_MB": "16",
    "COOC_MAX_BULK_IMAGES": "1000",
}
"""Of the service: small, so that limits are met."""
MEGAPIXELS = 4
"""So that a few large images at the same time do not take more memory than a leak would."""
GOOD = 12
"""Photos that are stored at first and have to be found at the end."""
CLIENTS = 4
TIMEOUT_S = 120.0
LIMIT_IDLE = httpx.Limits(keepalive_expiry=1.0)
"""The service closes a connection that is idle for 5 s: not at the moment when we use it again."""
JOB_S = 300.0
WAVE = 100
"""Cases between two looks at memory, jobs and what was stored."""
MAX_GROWTH_MB = 100.0
CLASS_NAME = re.compile(r"\b[A-Z]\w+(Error|Exception)\b")
"""An error that nobody put into words."""


@dataclass
class Findings:
    answers: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


def run(count: int, *, warmup: int, seed: int = 0, megapixels: int = MEGAPIXELS) -> dict[str, Any]:
    """The figures of `count` cases, of which the first `warmup` are not held to any memory."""
    limits = LIMITS | {"COOC_MAX_MEGAPIXELS": str(megapixels)}
    findings = Findings()
    memory: list[float] = []
    begun = time.perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="cooc-fuzz-") as folder,
        closing(Service(Path(folder) / "index", {**UNTRAINED, **limits})) as service,
        httpx.Client(base_url=service.url, timeout=TIMEOUT_S, limits=LIMIT_IDLE) as client,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):
        start = service.start()
        if start.refusal is not None:
            raise RuntimeError(f"the service does not start: {start.refusal}")
        documented = service.paths()
        for number in range(GOOD):
            put = client.put(f"/images/good/{number}", files={"image": photo(number)})
            put.raise_for_status()
        for first in range(0, count, WAVE):
            wave = cases(seed, first, min(first + WAVE, count))
            jobs = [
                job
                for job in clients.map(lambda case: _send(client, case, documented, findings), wave)
                if job is not None
            ]
            _follow(client, jobs, findings)
            _tidy(client)
            memory.append(_rss_mb(service.pid))
            if not service.alive:
                findings.problems.append(f"the service ended: {service.log()[-2000:]}")
                break
        else:
            findings.problems += _unwell(client)
        log = service.log()
    findings.problems += _complaints(log)
    warm, end = levels(memory, warmup // WAVE)
    growth = end - warm
    if growth > MAX_GROWTH_MB:
        findings.problems.append(f"memory grew by {growth:.0f} MB after the first {warmup} cases")
    return {
        "cases": count,
        "seed": seed,
        "megapixels": megapixels,
        "warmup": warmup,
        "answers": dict(sorted(findings.answers.items())),
        "jobs": dict(sorted(findings.jobs.items())),
        "seconds": round(time.perf_counter() - begun, 1),
        "slowest_s": round(findings.slowest[0], 2),
        "slowest": findings.slowest[1],
        "memory_mb": {
            "warm": round(warm),
            "end": round(end),
            "most": round(max(memory)),
            "course": [round(value) for value in memory],
        },
        "problems": findings.problems,
    }


def _send(
    client: httpx.Client, case: Case, documented: dict[str, Any], findings: Findings
) -> str | None:
    """Send one case and judge the answer; the address of its job, if it began one."""
    begun = time.perf_counter()
    try:
        answer = client.request(case.method, case.path, files=list(case.files))
    except httpx.TransportError as error:
        findings.problems.append(f"case {case.number} with {case.what}: no answer, {error!r}")
        return None
    seconds = time.perf_counter() - begun
    findings.slowest = max(findings.slowest, (seconds, f"case {case.number}: {case.what}"))
    route = "/images" if case.path.startswith("/images") else case.path
    findings.answers[f"{case.method} {route} {answer.status_code}"] += 1
    problem = judge(case, answer, documented)
    if problem is not None:
        findings.problems.append(problem)
    return answer.headers.get("location") if answer.status_code == 202 else None


def _follow(client: httpx.Client, jobs: Sequence[str], findings: Findings) -> None:
    """Until all of them have ended; none may end for a reason that is not told."""
    for url in jobs:
        deadline = time.perf_counter() + JOB_S
        while True:
            job = client.get(url).json()
            if job["state"] not in ("queued", "running"):
                break
            if time.perf_counter() > deadline:
                findings.problems.append(f"the job {url} did not end: {job}")
                return
            time.sleep(0.02)
        findings.jobs[job["state"]] += 1
        errors = client.get(f"{url}/errors").json()["errors"]
        if job["state"] in ("failed", "partial") and not (job["error"] or errors):
            findings.problems.append(f"the job {url} does not say what failed: {job}")
        findings.problems += [f"{url}: {e}" for e in errors if CLASS_NAME.search(e["detail"])]


def _tidy(client: httpx.Client) -> None:
    """Forget what damaged files have added: memory is to be compared at the same size."""
    for image in client.get("/images", params={"limit": "1000"}).json()["images"]:
        if not image["id"].startswith("good/"):
            client.delete(f"/images/{quote(image['id'])}").raise_for_status()


def _unwell(client: httpx.Client) -> list[str]:
    """What a good client sees that it should not."""
    problems = []
    if client.get("/readyz").status_code != 200:
        problems.append("not ready at the end")
    for number in range(GOOD):
        answer = client.post("/search", files={"image": photo(number)}, data={"limit": "2"}).json()
        hits = [(hit["id"], hit["match_type"]) for hit in answer["results"]]
        if hits[:1] != [(f"good/{number}", "exact")] or hits[1][1] == "exact":
            problems.append(f"good/{number} does not find itself, alone and first: {hits}")
    stored = {image["id"] for image in client.get("/images").json()["images"]}
    if stored != {f"good/{number}" for number in range(GOOD)}:
        problems.append(f"stored at the end: {sorted(stored)[:20]}")
    return problems


def _complaints(log: str) -> list[str]:
    """Errors that the service logged, and of each traceback what was raised."""
    lines = log.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback")]
    raised = [
        next((line for line in lines[start + 1 :] if line and not line.startswith(" ")), "?")
        for start in starts
    ]
    return [line.strip() for line in lines if "ERROR" in line] + [f"raised: {r}" for r in raised]


def levels(memory: Sequence[float], warm: int) -> tuple[float, float]:
    """Medians of memory after `warm` looks at it, and at the end, over ten looks where there are as
    many: one alone may come upon what a large image has just left, which the next such frees."""
    first = min(max(warm - 1, 0), len(memory) - 1)
    some = max(1, min(10, (len(memory) - first) // 2))
    return statistics.median(memory[first : first + some]), statistics.median(memory[-some:])


def _rss_mb(pid: int) -> float:
    """Memory of a process that is in RAM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description="Send thousands of bad files to a real service.")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megapixels", type=int, default=MEGAPIXELS, help="the service's limit")
    chosen = parser.parse_args(arguments)
    figures = run(
        chosen.cases, warmup=chosen.warmup, seed=chosen.seed, megapixels=chosen.megapixels
    )
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
