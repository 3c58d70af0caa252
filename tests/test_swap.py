from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from engine.errors import CorruptIndex
from engine.files.data_folder import DataFolder
from engine.files.swap import INDEX_FILES, check_no_swap, finish_swap, swap

OLD = {
    "catalog.sqlite": "old catalog",
    "catalog.sqlite-wal": "old log",
    "CURRENT": "4",
    "generations/4/manifest.json": "old",
    "owner.lock": "",
    "spool/job/file": "waits",
}
NEW = {"catalog.sqlite": "new catalog", "generations/1/manifest.json": "new"}
MERGED = {**NEW, "owner.lock": "", "spool/job/file": "waits"}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Killed(BaseException):
    pass


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the work at the given change of a name, before it is made."""
    rename, left = Path.rename, [step]

    def renamed(self: Path, target: Path) -> Path:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)


@pytest.mark.parametrize("step", range(7))
def test_a_swap_that_was_cut_off_anywhere_is_finished(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, staged, aside = tmp_path / "index", tmp_path / "index/new", tmp_path / "index/old/1"
    write(folder, OLD)
    write(staged, NEW)
    with monkeypatch.context() as patched:
        kill_at(step, patched)
        try:
            swap(folder, staged, aside, INDEX_FILES)
        except Killed:
            # Killed a second time while it is finished.
            kill_at(1, patched)
            with suppress(Killed):
                finish_swap(folder)
        else:
            assert step == 6, "this many names change"
    if (folder / "swap.json").exists():
        with pytest.raises(CorruptIndex, match="was interrupted; start the service"):
            check_no_swap(folder)
    DataFolder(folder).release()
    check_no_swap(folder)
    found = read(folder)
    found["owner.lock"] = ""
    kept = {
        name: text for name, text in OLD.items() if name not in ("owner.lock", "spool/job/file")
    }
    assert found == {**MERGED, **{f"old/1/{name}": text for name, text in kept.items()}}
    assert not staged.exists()


def test_into_an_empty_folder_nothing_is_put_aside(tmp_path: Path) -> None:
    write(tmp_path / "new", NEW)
    swap(tmp_path, tmp_path / "new", tmp_path / "old" / "1", INDEX_FILES)
    assert read(tmp_path) == NEW
    assert not (tmp_path / "old").exists()


def test_before_the_journal_is_written_nothing_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, OLD)
    write(tmp_path / "new", NEW)

    def fail(self: Path, target: Path) -> Path:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(Killed):
            swap(tmp_path, tmp_path / "new", tmp_path / "old", INDEX_FILES)
    finish_swap(tmp_path)
    found = read(tmp_path)
    assert {name: found[name] for name in OLD} == OLD


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "swap.json").write_text("{")
    with pytest.raises(CorruptIndex, match=r"swap\.json cannot be read"):
        finish_swap(tmp_path)
