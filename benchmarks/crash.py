"""A service under mixed load is killed again and again; what it acknowledged has to be there.

`python -m benchmarks.crash --rounds 100`. Several clients add, replace, change, delete, bulk-add,
build and search at once; the process gets SIGKILL at a random moment, or in the middle of a build,
a bulk add or its own start; it is started again and held against what the clients know for
certain. Then the same is done with damaged files, one case after the other, and with a full disk.
The file system survives a SIGKILL: what a power cut does to a disk is not tested here.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.crashing.cases import run_cases
from benchmarks.crashing.checks import Findings, check
from benchmarks.crashing.ledger import Ledger
from benchmarks.crashing.load import Load, add_many, build
from benchmarks.crashing.server import Service, Start

Say = Callable[[str], object]

MOMENTS = {"any": 4, "build": 2, "bulk": 2, "bulk end": 1, "start": 1}
"""When a service is killed, and how often of 10: at any time of its work, right after a build was
asked for, within a bulk add, when it has stored its last image, or before it is ready again."""
FIRST_IMAGES = 80
VERIFY_EVERY = 10


@dataclass(frozen=True)
class Plan:
    """How much is done: rounds of at most `load_s` seconds of load with about `target` images."""

    rounds: int = 100
    seed: int = 0
    target: int = 200
    load_s: float = 3.0
    damage: bool = True
    environment: Mapping[str, str] | None = None


SMALL: dict[str, Any] = {"target": 100, "load_s": 1.5}


@dataclass
class _Record:
    starts: list[Start] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)
    verified: int = 0


def run(plan: Plan, folder: Path, say: Say = lambda text: None) -> dict[str, Any]:
    """All rounds and damage cases, with files in `folder`; see `_report` for what it returns."""
    started = time.monotonic()
    record, ledger = _Record(), Ledger()
    if plan.rounds:
        _run_rounds(plan, folder, ledger, record, say)
    cases = run_cases(folder, plan.environment, say) if plan.damage else []
    return _report(plan, ledger, record, cases, time.monotonic() - started)


def _run_rounds(plan: Plan, folder: Path, ledger: Ledger, record: _Record, say: Say) -> None:
    draw = random.Random(plan.seed)
    service = Service(folder / "index", plan.environment)
    try:
        first = service.start()
        if first.refusal:
            raise RuntimeError(f"the service does not start at all: {first.refusal}")
        patch = any("patch" in methods for methods in service.paths().values())
        add_many(service.http, ledger, FIRST_IMAGES)
        record.findings.extend(check(service, ledger), "setup")
        build(service.http, ledger)
        record.findings.extend(check(service, ledger), "setup")
        for number in range(1, plan.rounds + 1):
            load = Load(
                service.url,
                ledger,
                seed=draw.randrange(2**32),
                target=plan.target,
                patch=patch,
            )
            moment = draw.choices(list(MOMENTS), list(MOMENTS.values()))[0]
            load.start()
            _wait_for(moment, load, draw, plan.load_s)
            service.kill()
            load.stop()
            record.kills[moment] += 1
            if moment == "start":
                service.begin()
                time.sleep(draw.uniform(0.0, 2.0))
                service.kill()
            start = service.start()
            where = f"round {number} ({moment})"
            if start.refusal:
                record.findings.add("not_ready", f"{where}: {start.refusal}")
                return
            record.starts.append(start)
            last = number == plan.rounds
            found = check(service, ledger, every_vector=last)
            record.findings.extend(found, where)
            if number % VERIFY_EVERY == 0 or last:
                service.stop()
                for problem in service.verify():
                    record.findings.add("verify", f"{where}: {problem}")
                record.verified += 1
                if not last:
                    service.start()
            say(
                f"{where}: ready after {start.seconds:.2f} s, {start.replayed} rows replayed, "
                f"{len(ledger.live())} images, faults {sum(found.counts().values())}"
            )
    finally:
        service.close()


def _wait_for(moment: str, load: Load, draw: random.Random, load_s: float) -> None:
    """Until the service is to be killed."""
    if moment == "build":
        load.build_asked.wait(10 * load_s)
        time.sleep(draw.uniform(0.0, 0.3))
    elif moment == "bulk":
        load.bulk_running.wait(10 * load_s)
        time.sleep(draw.uniform(0.0, 0.3))
    elif moment == "bulk end":
        load.bulk_ending.wait(10 * load_s)
        time.sleep(draw.uniform(0.0, 0.05))
    else:
        time.sleep(draw.uniform(0.05, load_s))


def _report(
    plan: Plan, ledger: Ledger, record: _Record, cases: Sequence[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    """What `--json` prints: counts of every kind of fault, times of starts, the damage cases."""
    starts = sorted(start.seconds for start in record.starts)
    return {
        "bench": "crash",
        "rounds": plan.rounds,
        "seed": plan.seed,
        "seconds": round(seconds, 1),
        "kills": dict(record.kills),
        "operations": dict(ledger.asked),
        "acknowledged": dict(ledger.acknowledged),
        "images": len(ledger.live()),
        "verified": record.verified,
        **record.findings.counts(),
        "start_s": {
            "p50": round(statistics.median(starts), 2),
            "max": round(starts[-1], 2),
            "cpu_p50": round(statistics.median(start.cpu_seconds for start in record.starts), 2),
        }
        if starts
        else None,
        "replayed_rows_max": max((start.replayed for start in record.starts), default=0),
        "faults": record.findings.texts(),
        "damage": list(cases),
        "ok": not record.findings.any and all(case["ok"] for case in cases),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 where anything was lost or wrong."""
    parser = argparse.ArgumentParser(description="Kill a service under load; count what it lost.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="fewer images, shorter rounds")
    parser.add_argument("--no-damage", action="store_true", help="without the damaged files")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    parser.add_argument("--bundled", action="store_true", help="with the trunk of the package")
    parser.add_argument("--folder", type=Path, help="keep the files here; default: thrown away")
    chosen = parser.parse_args(arguments)
    sizes = SMALL if chosen.small else {}
    plan = Plan(
        rounds=chosen.rounds,
        seed=chosen.seed,
        damage=not chosen.no_damage,
        environment=BUNDLED if chosen.bundled else None,
        **sizes,
    )

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    with tempfile.TemporaryDirectory(prefix="cooc-crash-") as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = run(plan, folder, (lambda text: None) if chosen.json else say)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if report["ok"] else 1


BUNDLED = {"COOC_BACKBONE": "vgg_lite", "COOC_WEIGHTS": "bundled"}

if __name__ == "__main__":
    sys.exit(main())
