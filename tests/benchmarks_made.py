"""Small copies of the published benchmarks, of drawn scenes, in their own file formats."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from PIL import Image

from tests.drawing import encode, scene, view

LANDMARKS = ("all_souls", "balliol", "hertford")
BOX = (60, 50, 188, 146)
"""Where the landmark lies on the page that is a query's photo."""


def landmark(number: int) -> Image.Image:
    return scene(100 + number, (128, 96))


def page(number: int) -> bytes:
    """A larger photo with the landmark at `BOX` and clutter around it."""
    photo = scene(900 + number, (300, 200))
    photo.paste(landmark(number), BOX[:2])
    return encode(photo, "jpg", quality=95)


def photos(number: int) -> dict[str, bytes]:
    """By last digits: 1 and 2 show the landmark well, 3 a small part of it, 4 hardly anything."""
    drawn = landmark(number)
    return {
        "000001": view(drawn, keep=0.95, scale=1.0, quality=95),
        "000002": view(drawn, keep=0.85, scale=1.0, quality=85),
        "000003": view(drawn, keep=0.6, scale=1.0, quality=70),
        "000004": view(drawn, keep=0.35, scale=1.0, quality=40),
    }


def _images(folder: Path) -> None:
    jpg = folder / "jpg"
    jpg.mkdir(parents=True)
    for number, name in enumerate(LANDMARKS):
        (jpg / f"{name}_000000.jpg").write_bytes(page(number))
        for digits, data in photos(number).items():
            (jpg / f"{name}_{digits}.jpg").write_bytes(data)
    for number in range(8):
        (jpg / f"oxford_{number:06d}.jpg").write_bytes(encode(scene(500 + number, (128, 96))))


def oxford(folder: Path) -> Path:
    """Classic: jpg/ and lab/ with text files; the page of each landmark is its query."""
    _images(folder)
    lab = folder / "lab"
    lab.mkdir()
    box = " ".join(f"{value:.1f}" for value in BOX)
    for name in LANDMARKS:
        (lab / f"{name}_1_query.txt").write_text(f"oxc1_{name}_000000 {box}\n")
        (lab / f"{name}_1_good.txt").write_text(f"{name}_000000\n{name}_000001\n")
        (lab / f"{name}_1_ok.txt").write_text(f"{name}_000002\n{name}_000003\n")
        (lab / f"{name}_1_junk.txt").write_text(f"{name}_000004\n")
    return folder


def revisited(folder: Path) -> Path:
    """Revisited: jpg/ and gnd_roxford5k.pkl; the queries are not in the database."""
    _images(folder)
    names = sorted(path.stem for path in (folder / "jpg").iterdir())
    queries = [f"{name}_000000" for name in LANDMARKS]
    database = [name for name in names if name not in queries]
    gnd: list[dict[str, Any]] = [
        {
            "bbx": list(BOX),
            "easy": [database.index(f"{name}_000001"), database.index(f"{name}_000002")],
            "hard": [database.index(f"{name}_000003")],
            "junk": [database.index(f"{name}_000004")],
        }
        for name in LANDMARKS
    ]
    gnd[-1]["hard"] = []  # counts in two of the three protocols only
    content = {"imlist": database, "qimlist": queries, "gnd": gnd}
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content, protocol=2))
    return folder
