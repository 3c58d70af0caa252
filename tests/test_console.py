"""What the command line shows: words as they are, and JSON that every reader takes."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from app.terminal import console
from engine.errors import InvalidOption

MARKUP = ["my [red] set", "[/x]", "[bold", "a\\[b]\\", ":smile:", "[link=x]y[/link]"]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=stream, width=1000))
    return stream


@pytest.mark.parametrize("words", MARKUP)
def test_words_that_look_like_markup_are_shown_as_they_are(shown: io.StringIO, words: str) -> None:
    console.table([words, "n"], [[words, 3]], title=f"on {words}")
    lines = shown.getvalue().splitlines()
    assert lines[0].strip() == f"on {words}"
    assert [cell.strip() for cell in lines[2].strip("┃").split("┃")] == [words, "n"]
    assert [cell.strip() for cell in lines[4].strip("│").split("│")] == [words, "3"]


@pytest.mark.parametrize("words", MARKUP)
def test_labels_of_progress_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=stream, width=200, force_terminal=True))
    with console.progress_bar(f"describing {words}", 2) as bar:
        bar.update(2, 2)
    assert f"describing {words}" in stream.getvalue()


def test_numbers_stand_on_the_right_with_two_digits(shown: io.StringIO) -> None:
    console.table(["name", "map"], [["a", 1.239], ["b", 12.5]])
    rows = [line.strip("│") for line in shown.getvalue().splitlines() if line.startswith("│")]
    assert [row.split("│")[1] for row in rows] == ["  1.24 ", " 12.50 "]


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"map": 0.5, "rows": [[1, None, "[red]"]]}
    console.print_json(value)
    assert json.loads(capsys.readouterr().out) == value


@pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float64("-inf")])
def test_a_number_that_json_does_not_have_is_named(
    capsys: pytest.CaptureFixture[str], number: float
) -> None:
    with pytest.raises(InvalidOption, match="not finite"):
        console.print_json({"results": [{"map": 1.0}, {"map": number}]})
    assert capsys.readouterr().out == ""
