"""The crash test in small: kills at random moments, and every kind of damaged file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.commands import index
from app.main import create_app
from app.settings import Settings
from benchmarks import crash
from benchmarks.crash import Plan, main
from benchmarks.crashing import cases
from benchmarks.crashing.cases import Sample, make_sample
from benchmarks.crashing.checks import Findings, check
from benchmarks.crashing.damage import (
    catalog_cases,
    index_cases,
    jobs_cases,
    live_generation,
)
from benchmarks.crashing.ledger import Ledger, Stored
from benchmarks.crashing.pictures import other_file, photo
from benchmarks.crashing.server import UNTRAINED, Service, Start
from engine.errors import EngineError
from engine.images import decode, digest
from tests.documented import words


class Inside(Service):
    """The service within this process: it starts in a moment, and is never killed."""

    client: TestClient | None = None

    def start(self) -> Start:
        options: dict[str, Any] = {
            name.removeprefix("COOC_").lower(): value for name, value in UNTRAINED.items()
        }
        settings = Settings(data_dir=self.folder, **options)
        client = TestClient(create_app(settings), raise_server_exceptions=False)
        try:
            client.__enter__()
        except EngineError as error:
            return Start(0.0, 0.0, str(error), "")
        self.client = client
        ready = client.get("/readyz")
        self.http: Any = client  # of another httpx, with the same methods
        return Start(0.0, 0.0, None if ready.status_code == 200 else ready.text, "")

    def kill(self) -> None:
        if self.client is not None:
            self.client.__exit__()
            self.client = None

    def verify(self) -> list[str]:
        done = CliRunner().invoke(
            index.app, ["verify", "--data-dir", str(self.folder)], env=UNTRAINED
        )
        if done.exit_code == 0:
            return []
        return (
            [str(done.exception)]
            if isinstance(done.exception, EngineError)
            else done.stdout.splitlines()
        )


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Folders of a service that was killed, and what its clients know of them."""
    return make_sample(tmp_path_factory.mktemp("sample"))


def outcomes(
    damages: dict[str, Callable[[Path], None]], case: Callable[..., dict[str, Any]], folder: Path
) -> dict[str, dict[str, Any]]:
    found = {}
    for name, damage in damages.items():
        found[name] = case(name, damage, folder)
        shutil.rmtree(folder / "case")
    return found


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_kills_at_random_moments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--rounds", 2, "--seed", 1, "--small", "--folder", tmp_path, "--json"]
    command = words(
        "python -m benchmarks.crash --rounds 100 --seed 5 --bundled --no-damage", *short
    )
    code = main(command)
    report = json.loads(capsys.readouterr().out)
    assert (code, report["faults"]) == (0, [])
    assert report["ok"]
    assert sum(report["kills"].values()) == 2
    assert min(report["acknowledged"][kind] for kind in ("put", "upsert", "delete", "search")) > 0
    assert 0 < report["start_s"]["p50"] <= report["start_s"]["max"]


def test_the_command_damages_files_too_unless_it_shall_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned: list[Plan] = []

    def planning(plan: Plan, *_: object) -> dict[str, Any]:
        planned.append(plan)
        return {"ok": True}

    monkeypatch.setattr(crash, "run", planning)
    assert main(words("python -m benchmarks.crash --rounds 12 --seed 9 --bundled")) == 0
    bundled = {"COOC_BACKBONE": "vgg_lite", "COOC_WEIGHTS": "bundled"}
    assert planned == [Plan(rounds=12, seed=9, damage=True, environment=bundled)]


@pytest.mark.slow
def test_no_damage_to_the_index_files_loses_or_hides_an_image(
    sample: Sample, tmp_path: Path
) -> None:
    damages = index_cases(sample.folder)
    assert {"a flipped byte in manifest.json", "a flipped byte in vectors.faiss"} <= set(damages)
    # A missing file is found out as a changed one is: one of them is enough here.
    skipped = {f"{path.name} missing" for path in live_generation(sample.folder).iterdir()}
    damages = {
        name: damage
        for name, damage in damages.items()
        if name not in skipped - {"vectors.faiss missing"}
    }

    def case(*arguments: Any) -> dict[str, Any]:
        return cases.damaged_index(sample, Inside, *arguments)

    for name, outcome in outcomes(damages, case, tmp_path).items():
        assert outcome["faults"] == [], name


@pytest.mark.slow
def test_no_damage_to_the_jobs_loses_an_accepted_upload(sample: Sample, tmp_path: Path) -> None:
    # Each in a process of its own, like the job library, of which a process has one.
    def case(*arguments: Any) -> dict[str, Any]:
        return cases.damaged_jobs(sample, Service, *arguments)

    damages = jobs_cases()
    del damages["a flipped byte in the header of jobs.sqlite"]  # like one cut off
    for name, outcome in outcomes(damages, case, tmp_path).items():
        assert outcome["faults"] == [], name


@pytest.mark.slow
def test_a_build_that_was_cut_off_leaves_nothing_after_the_next_one(
    sample: Sample, tmp_path: Path
) -> None:
    assert cases.cut_off_build(sample, Inside, tmp_path)["faults"] == []


@pytest.mark.slow
def test_a_torn_transaction_takes_nothing_else_with_it(sample: Sample, tmp_path: Path) -> None:
    outcome = cases.torn_log(sample, Inside, tmp_path)
    assert outcome["faults"] == []
    assert outcome["torn"]


@pytest.mark.slow
def test_a_damaged_catalog_is_refused_or_named_by_verify(sample: Sample, tmp_path: Path) -> None:
    def case(*arguments: Any) -> dict[str, Any]:
        return cases.damaged_catalog(sample, Inside, *arguments)

    found = outcomes(catalog_cases(sample.folder), case, tmp_path)
    for name, outcome in found.items():
        assert outcome["noticed"], name


@pytest.mark.slow
def test_a_kill_while_the_disk_is_full_loses_nothing(tmp_path: Path) -> None:
    outcome = cases.full_disk(Service, tmp_path)
    if "skipped" in outcome:
        pytest.skip(f"mounting is not permitted here: {outcome['skipped']}")
    assert outcome["faults"] == []
    # Whether it starts or says why it does not.
    assert outcome["start_without_room"] == "ready" or "room" in outcome["start_without_room"]


def test_the_check_sees_what_is_lost_back_changed_and_not_counted(
    sample: Sample, tmp_path: Path
) -> None:
    shutil.copytree(sample.folder, tmp_path / "case")
    ledger = sample.ledger.copy()
    lost, changed, *_ = sorted(ledger.live())
    (back, *_) = sorted(ledger.gone())
    service = Inside(tmp_path / "case")
    try:
        assert service.start().refusal is None
        assert not check(service, ledger).any
        # Behind the back of the ledger:
        service.http.delete(f"/images/{lost}")
        service.http.put(f"/images/{changed}", files={"image": photo(10_001)})
        service.http.put(f"/images/{back}", files={"image": photo(10_002)})
        service.http.put("/images/never-asked-for", files={"image": photo(10_003)})
        for number in (8, 9, 10):
            (service.folder / "generations" / f"{number}.part").mkdir()
        findings = check(service, ledger)
    finally:
        service.close()
    assert lost in findings.faults["lost"]
    assert back in findings.faults["resurrected"]
    assert any(text.startswith(f"{changed} is ") for text in findings.faults["altered"])
    assert any(text.startswith(f"{lost} finds ") for text in findings.faults["not_self_found"])
    assert findings.faults["miscounted"] and findings.faults["leftover"]


def test_what_got_no_answer_may_have_happened_or_not_but_nothing_else() -> None:
    first, second, third = (Stored.sent(seed, {}) for seed in (1, 2, 3))
    for found, possible in ((first, True), (second, True), (third, False), (None, False)):
        ledger = Ledger()
        ledger.begin("put", {"a": first})
        ledger.settle("put", ["a"], done=True)
        ledger.begin("upsert", {"a": second})
        assert ledger.doubtful() == ["a"] and ledger.gone() == []
        assert ledger.resolve("a", found) == possible
        assert ledger.doubtful() == []
    assert ledger.gone() == ["a"]


def test_the_other_file_of_a_picture_has_its_pixels_and_another_digest() -> None:
    data = photo(5)
    other = other_file(data)
    assert (decode(other, max_side=96).pixels == decode(data, max_side=96).pixels).all()
    assert digest(other) != digest(data)
    assert decode(other, max_side=96).format == "PNG"


def test_findings_keep_where_they_were_made() -> None:
    some, all_of_them = Findings(), Findings()
    some.add("lost", "x")
    all_of_them.extend(some, "round 3")
    assert all_of_them.texts() == ["lost: round 3: x"]
    assert all_of_them.counts()["lost"] == 1 and all_of_them.any
