"""The parts that jobs are made of, each by itself."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from app.errors import InvalidFields, UnknownReport
from app.jobs.database import prepare
from app.jobs.growth import Growth
from app.jobs.reports import KEPT, Reports, report_page
from app.jobs.running import REMEMBERED, Running, Stopping
from app.schemas import ProgressOut
from tests.patience import PATIENCE_S


@pytest.mark.parametrize(
    ("count", "fitted", "fresh", "due"),
    [
        (99, 0, 99, False),
        (100, 0, 100, True),
        (399, 100, 299, False),
        (400, 100, 300, True),
        (120_000, 100_000, 20_000, False),
        (120_001, 100_000, 20_001, True),
        (1_100_000, 1_000_000, 100_000, False),
        (1_100_001, 1_000_000, 100_001, True),
        # Replaced and deleted images: fresh without there being more.
        (100_000, 100_000, 20_001, True),
    ],
)
def test_a_collection_has_outgrown_its_build(
    count: int, fitted: int, fresh: int, due: bool
) -> None:
    assert Growth().outgrown(count, fitted, fresh) is due


def test_the_index_is_looked_at_only_when_the_answer_may_have_changed() -> None:
    growth, count, looks, built_at = Growth(), 0, 0, None
    for _ in range(5000):
        count += 1
        if growth.wrote(1):
            looks += 1
            if growth.outgrown(count, 0, count):
                built_at = count
                break
    assert built_at == 100
    assert looks == 2


def test_looks_stay_rare_in_a_large_collection() -> None:
    growth, looks = Growth(), 0
    for fresh in range(1, 60_000):
        if growth.wrote(1):
            looks += 1
            if growth.outgrown(1_000_000 + fresh, 1_000_000, fresh):
                raise AssertionError("a tenth of a million is 100,000")
    assert looks <= 2


def test_a_build_that_was_tried_is_not_tried_again_before_there_is_as_much_growth() -> None:
    growth = Growth()
    assert growth.outgrown(100, 0, 100)
    growth.tried(100, 100)
    assert not growth.outgrown(101, 0, 101)
    assert not growth.outgrown(399, 0, 399)
    assert growth.outgrown(400, 0, 400)
    # Once there was a build, what counts is that.
    assert growth.outgrown(401, 100, 1)
    assert not growth.outgrown(399, 100, 1)


def test_going_back_a_generation_is_not_undone_by_the_next_write() -> None:
    growth = Growth()
    growth.tried(90_000, 50_000)  # fitted on 40,000
    assert not growth.outgrown(90_001, 40_000, 50_001)
    assert not growth.outgrown(110_000, 40_000, 70_000)
    assert growth.outgrown(110_001, 40_000, 70_001)


def test_the_newest_reports_are_kept(tmp_path: Path) -> None:
    reports = Reports(tmp_path)
    for number in range(KEPT + 5):
        reports.write(f"{number:032x}", {"number": number})
        os.utime(tmp_path / "reports" / f"{number:032x}.json", ns=(number, number))
    reports.write("f" * 32, {"number": -1})
    assert len(list((tmp_path / "reports").iterdir())) == KEPT
    assert reports.read("f" * 32) == {"number": -1}
    assert reports.read(f"{KEPT + 4:032x}") == {"number": KEPT + 4}
    with pytest.raises(UnknownReport, match="made room"):
        reports.read(f"{5:032x}")


def test_pages_of_a_report_are_the_report() -> None:
    content = {"images": 9, "groups": list(range(7))}
    pages, cursor = [], None
    while True:
        page = report_page(content, 3, cursor)
        assert page["images"] == 9
        pages += page["groups"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert pages == content["groups"]
    assert report_page({"name": "x"}, 3, None) == {"name": "x"}
    for bad in ("-1", "x", "1.5", "٣", "9" * 20):
        with pytest.raises(InvalidFields):
            report_page(content, 3, bad)


def filled(path: Path, rows: int = 20_000) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        values = ((f"value {number}",) for number in range(rows))
        connection.executemany("INSERT INTO t (b) VALUES (?)", values)
    return path


def test_a_whole_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = filled(tmp_path / "jobs.sqlite")
    prepare(path)
    prepare(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (20_000,)
    assert not list(tmp_path.glob("*.damaged*"))


@pytest.mark.parametrize("damage", ["junk", "truncated", "overwritten", "a byte"])
def test_a_damaged_file_is_set_aside_and_said_to_be(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = filled(tmp_path / "jobs.sqlite")
    data = path.read_bytes()
    if damage == "junk":
        path.write_bytes(b"no database at all" * 500)
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "overwritten":
        path.write_bytes(data[: 4096 * 5] + b"\xa5" * 4096 + data[4096 * 6 :])
    else:  # the type of a page of a table
        path.write_bytes(data[: 4096 * 5] + b"\xff" + data[4096 * 5 + 1 :])
    with caplog.at_level(logging.ERROR):
        prepare(path)
    assert "list of earlier jobs is lost, images are not" in caplog.text
    assert not path.exists()
    assert path.with_name("jobs.sqlite.damaged").is_file()
    prepare(path)


def test_a_job_is_worked_on_once_at_a_time() -> None:
    running = Running()
    with running.job("a"):
        assert running.at_work() == {"a"}
        with pytest.raises(Stopping), running.job("a"):
            pass
        assert running.at_work() == {"a"}
    assert running.at_work() == set()


def test_a_job_that_was_cancelled_before_anybody_worked_on_it_is_not_begun() -> None:
    running = Running()
    assert not running.cancel("a"), "who cancels it sees to all that comes of that"
    with pytest.raises(Stopping), running.job("a"):
        pass
    assert running.at_work() == set()


def test_a_cancelled_job_does_not_wait_to_the_end() -> None:
    running = Running()
    timer = threading.Timer(0.1, running.cancel, ["a"])
    timer.start()
    started = time.monotonic()
    with pytest.raises(Stopping):
        running.wait("a", 30.0)
    assert time.monotonic() - started < 25
    timer.join()
    running.check("b")


def test_stopping_waits_for_the_step_at_hand() -> None:
    running, order = Running(), []
    inside = threading.Event()

    def work() -> None:
        with running.job("a"):
            inside.set()
            running.stopping.wait(PATIENCE_S)
            time.sleep(0.2)
            order.append("step done")

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(PATIENCE_S)
    running.stop()
    order.append("stopped")
    thread.join()
    assert order == ["step done", "stopped"]
    with pytest.raises(Stopping), running.job("b"):
        pass


def test_memory_of_progress_is_bounded() -> None:
    running = Running()
    for number in range(REMEMBERED + 10):
        running.report(str(number), ProgressOut(total=number))
    assert running.live("9") is None
    live = running.live(str(REMEMBERED + 9))
    assert live is not None and live.progress.total == REMEMBERED + 9


def test_reports_are_plain_json(tmp_path: Path) -> None:
    Reports(tmp_path).write("a", {"groups": []})
    assert json.loads((tmp_path / "reports" / "a.json").read_text()) == {"groups": []}
