"""The fuzzing of uploads, as its benchmark does it, in small."""

from __future__ import annotations

import json

import pytest

from benchmarks.crashing.pictures import photo
from benchmarks.fuzz_uploads import levels, main
from benchmarks.fuzzing.cases import cases
from engine.images import decode
from engine.made.files import encoded
from tests.documented import words


def test_two_hundred_bad_files_harm_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--cases", 200, "--warmup", 100, "--seed", 5]
    code = main(words("python -m benchmarks.fuzz_uploads --cases 5000", *few))
    figures = json.loads(capsys.readouterr().out)
    assert (code, figures["problems"]) == (0, [])
    assert sum(figures["answers"].values()) == 200
    statuses = {answer.rsplit(" ", 1)[1] for answer in figures["answers"]}
    assert {"200", "202", "415", "422"} <= statuses


def test_memory_that_grows_is_told_from_memory_that_comes_and_goes() -> None:
    assert levels([400, 450, *[500 + looked for looked in range(40)]], 2) == (503.5, 534.5)
    assert levels([400, 450, *[600, 500, 500, 500] * 10, 600], 2) == (500, 500)
    assert levels([450, 700], 1) == (450, 700)
    assert levels([450], 1) == (450, 450)


def test_cases_are_the_same_whenever_they_are_made() -> None:
    some = list(cases(3, 40, 60))
    assert some == list(cases(3, 0, 100))[40:60]
    assert some != list(cases(4, 40, 60))
    kinds = {case.path.split("/")[1] for case in cases(3, 0, 100)}
    assert kinds == {"search", "images", "compare", "index"}


def test_every_format_that_the_service_takes_is_among_the_good_files() -> None:
    files = encoded(decode(photo(1), max_side=512).pixels)
    taken = {decode(data, max_side=128).format for name, data in files.items() if name in TAKEN}
    assert taken == {"JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "HEIF"}


TAKEN = ("jpeg", "png", "webp", "avif", "gif", "tiff", "bmp", "heic", "mpo", "apng")
